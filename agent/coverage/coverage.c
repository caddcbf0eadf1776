/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coverage: accounts of connections, results of probing files and facts from /proc in; for each
 * process its numbers and one reason out, as JSON and as counters. Bounded in processes and files;
 * never sees plaintext, never changes what is captured.
 */
#include "coverage/coverage.h"

#include "base/clock.h"
#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "sites/elfsym.h"
#include "process.h"
#include "coverage/reason.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TICKS_ROUND   64 /* in so many ticks each process is asked once whether it lives */
#define PROCESS_FILES 8  /* TLS libraries of one process */
#define CONFIDENCES   (CONF_EXACT + 1)

static COUNTER_DEFINE(forgotten, "coverage_processes_forgotten",
		      "living processes taken off the list: too many of them");

/* A file that was probed, or a program that was searched. */
struct file {
	struct hmap_node node; /* by inode number */
	uint64_t dev, ino;
	char *path;
	bool was_probed; /* functions says how that went */
	int functions;
	const char *why_not;             /* static text, or NULL */
	const char *tier, *lowered_from; /* static, or NULL: struct capture_file */
	bool was_searched;               /* the rest says what was found */
	int family;                      /* enum family, or -ENOENT */
	bool has_symbols;
};

struct sums {
	uint64_t flows[FLOW_FATES];
	uint64_t mirrored[CONFIDENCES], bytes[CONFIDENCES]; /* of FLOW_MIRRORED */
	uint64_t late;                                      /* of FLOW_UNMATCHED */
	uint64_t unexplained;                               /* of FLOW_MIRRORED */
	uint64_t by_preload;                                /* the same */
};

struct process {
	struct hmap_node node; /* by pid and start */
	struct queue_node age; /* longest without news first */
	unsigned pid;
	uint64_t start_ticks;
	char comm[16], thread[16], exe[256], container[16];
	unsigned mapped, inside; /* FAMILY_BIT()s */
	bool has_symbols, is_self;
	const struct file *files[PROCESS_FILES]; /* borrowed */
	unsigned n_files;
	struct sums ended, live;
	uint64_t unbound_bytes;
	uint64_t looked_at_tick;
	bool was_looked_at, is_dead;
	uint64_t died_ns;
	bool was_paused; /* it had no probes for a while, or has none now */
	bool is_paused;  /* the next say why and until when */
	unsigned percent, limit;
	uint64_t retry_ns;
};

struct coverage {
	struct coverage_conf conf;
	struct hmap processes, files;
	struct queue by_age;
	uint64_t now_ns, tick, n_forgotten;
	uint64_t searched, unsearched; /* bytes read of programs; programs not read */
	uint64_t own_dev, own_ino;     /* of this program's file */
};

int coverage_new(struct coverage **out, const struct coverage_conf *conf)
{
	struct coverage *c = calloc(1, sizeof(*c));
	struct stat st;

	if (!c)
		return -ENOMEM;
	c->conf = *conf;
	hmap_init(&c->processes);
	hmap_init(&c->files);
	queue_init(&c->by_age);
	if (!stat("/proc/self/exe", &st)) {
		c->own_dev = st.st_dev;
		c->own_ino = st.st_ino;
	}
	*out = c;
	return 0;
}

/* --- files --------------------------------------------------------------------------------------
 */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* " (deleted)" is not part of a name. */
static bool same_name(const char *a, const char *b)
{
	size_t n = strcspn(base_name(a), " ");

	return n == strcspn(base_name(b), " ") && !strncmp(base_name(a), base_name(b), n);
}

/*
 * The device of a mapping and stat's may differ for one file (btrfs, overlayfs): then number and
 * name decide.
 */
static struct file *find_file(const struct coverage *c, uint64_t dev, uint64_t ino,
			      const char *path)
{
	uint64_t hash = hmap_hash(&ino, sizeof(ino));
	struct file *alike = NULL;

	for (struct hmap_node *n = hmap_first(&c->files, hash); n; n = hmap_next_same(n)) {
		struct file *f = hmap_entry(n, struct file, node);

		if (f->ino == ino && f->dev == dev)
			return f;
		if (f->ino == ino && same_name(f->path, path))
			alike = f;
	}
	return alike;
}

static struct file *find_or_make_file(struct coverage *c, uint64_t dev, uint64_t ino,
				      const char *path)
{
	struct file *f = find_file(c, dev, ino, path);

	if (f || c->files.count >= COVERAGE_FILES_MAX)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->dev = dev;
	f->ino = ino;
	f->family = -ENOENT;
	f->path = strdup(path);
	if (!f->path || hmap_insert(&c->files, &f->node, hmap_hash(&ino, sizeof(ino)))) {
		free(f->path);
		free(f);
		return NULL;
	}
	return f;
}

/* A file of another machine's kind is no news, unless its name promises TLS. */
static bool is_telling(const char *path, const struct capture_file *found)
{
	return found->functions > 0 || found->why_not || family_by_name(path) >= 0 ||
	       (found->functions < 0 && found->functions != -ENOEXEC);
}

void coverage_file(struct coverage *c, uint64_t dev, uint64_t ino, const char *path,
		   const struct capture_file *found)
{
	struct file *f = NULL;

	if (is_telling(path, found))
		f = find_or_make_file(c, dev, ino, path);
	if (!f)
		return;
	f->was_probed = true;
	f->functions = found->functions;
	f->why_not = found->why_not;
	f->tier = found->tier;
	f->lowered_from = found->lowered_from;
}

static void search(struct coverage *c, struct file *f, int fd)
{
	static const char *const names[] = {"SSL_read", "SSL_write"};
	uint64_t offsets[2], left, limit = c->conf.search_max;

	left = c->conf.search_total > c->searched ? c->conf.search_total - c->searched : 0;
	if (!left) {
		c->unsearched++;
		return;
	}
	f->family = family_by_content(fd, limit < left ? limit : left, &c->searched);
	f->was_searched = true;
	f->has_symbols = f->family >= 0 && elfsym_offsets(fd, names, 2, offsets) == 2;
}

/* The program of a process, searched for TLS code; once for each file. */
static const struct file *search_program(struct coverage *c, const struct process *p)
{
	struct file *f = NULL;
	struct stat st;
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%u/exe", p->pid);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		f = find_or_make_file(c, st.st_dev, st.st_ino, p->exe);
	if (f && !f->was_searched)
		search(c, f, fd);
	close(fd);
	return f;
}

/* --- processes ----------------------------------------------------------------------------------
 */

static uint64_t hash_process(unsigned pid, uint64_t start_ticks)
{
	uint64_t key[2] = {pid, start_ticks};

	return hmap_hash(key, sizeof(key));
}

static struct process *find(const struct coverage *c, unsigned pid, uint64_t start_ticks)
{
	uint64_t hash = hash_process(pid, start_ticks);

	for (struct hmap_node *n = hmap_first(&c->processes, hash); n; n = hmap_next_same(n)) {
		struct process *p = hmap_entry(n, struct process, node);

		if (p->pid == pid && p->start_ticks == start_ticks)
			return p;
	}
	return NULL;
}

static void forget(struct coverage *c, struct process *p)
{
	hmap_remove(&c->processes, &p->node);
	queue_remove(&p->age);
	free(p);
}

static void forget_one(struct coverage *c)
{
	struct process *p = queue_entry(queue_first(&c->by_age), struct process, age);

	for (struct queue_node *n = queue_first(&c->by_age); n; n = queue_next(&c->by_age, n))
		if (queue_entry(n, struct process, age)->is_dead) {
			p = queue_entry(n, struct process, age);
			break;
		}
	if (!p->is_dead) {
		c->n_forgotten++;
		counter_inc(&forgotten);
	}
	forget(c, p);
}

static struct process *make(struct coverage *c, unsigned pid, uint64_t start_ticks)
{
	struct process *p;

	if (c->processes.count >= COVERAGE_PROCESSES_MAX)
		forget_one(c);
	p = calloc(1, sizeof(*p));
	if (!p || hmap_insert(&c->processes, &p->node, hash_process(pid, start_ticks))) {
		free(p);
		return NULL;
	}
	p->pid = pid;
	p->start_ticks = start_ticks;
	queue_push(&c->by_age, &p->age);
	return p;
}

struct looking {
	struct coverage *c;
	struct process *p;
};

static void keep_file(struct process *p, const struct file *f)
{
	for (unsigned i = 0; i < p->n_files; i++)
		if (p->files[i] == f)
			return;
	if (f && p->n_files < PROCESS_FILES)
		p->files[p->n_files++] = f;
}

static void on_file(void *ctx, const struct process_file *file)
{
	struct looking *l = ctx;
	int family = family_by_name(file->path);
	const struct file *f;

	if (family >= 0) {
		l->p->mapped |= FAMILY_BIT(family);
		f = find_or_make_file(l->c, file->dev, file->ino, file->path);
	} else {
		f = find_file(l->c, file->dev, file->ino, file->path);
		if (f && !f->functions && !f->why_not)
			f = NULL; /* searched only */
	}
	keep_file(l->p, f);
}

static bool is_probed(const struct process *p)
{
	for (unsigned i = 0; i < p->n_files; i++)
		if (p->files[i]->functions > 0)
			return true;
	return false;
}

static bool is_own_program(const struct coverage *c, unsigned pid)
{
	struct stat st;
	char name[64];

	snprintf(name, sizeof(name), "/proc/%u/exe", pid);
	return !stat(name, &st) && st.st_dev == c->own_dev && st.st_ino == c->own_ino;
}

/* All that /proc says about it. Programs are searched only where no library explains the TLS. */
static void look(struct coverage *c, struct process *p, bool search_it)
{
	struct looking l = {.c = c, .p = p};
	const struct file *program;

	process_exe(p->pid, p->exe, sizeof(p->exe));
	process_container(p->pid, p->container, sizeof(p->container));
	p->is_self = is_own_program(c, p->pid);
	p->mapped = p->inside = p->n_files = 0;
	(void)process_files(p->pid, on_file, &l);
	if (p->mapped || p->is_self || !search_it)
		return;
	program = search_program(c, p);
	if (program && program->family >= 0) {
		p->inside = FAMILY_BIT(program->family);
		p->has_symbols = program->has_symbols;
	}
}

static void keep_comm(char to[16], const char from[16])
{
	snprintf(to, 16, "%.*s", (int)strnlen(from, 15), from);
}

/* Its name and start, and whether it is still the same process. */
static bool is_alive(struct process *p)
{
	struct process_stat st;

	if (!process_stat(p->pid, &st) || st.start_ticks != p->start_ticks)
		return false;
	keep_comm(p->comm, st.comm);
	return true;
}

static void bury(const struct coverage *c, struct process *p)
{
	p->is_dead = true;
	p->died_ns = c->now_ns;
}

static struct process *find_or_make(struct coverage *c, unsigned pid, uint64_t start_ns)
{
	uint64_t ticks = process_ticks(start_ns);
	struct process *p = find(c, pid, ticks);

	return p ? p : make(c, pid, ticks);
}

/* A new name means a new program in the process (exec), or one more of its threads' names. */
static bool wants_look(const struct coverage *c, const struct process *p,
		       const struct flow_account *a)
{
	if (!p->was_looked_at)
		return true;
	if (p->is_dead || p->looked_at_tick == c->tick)
		return false;
	return strncmp(p->thread, a->comm, 15) != 0 ||
	       (a->fate == FLOW_UNMATCHED && !p->mapped && !p->inside);
}

static void look_if_alive(struct coverage *c, struct process *p, bool search_it)
{
	if (is_alive(p))
		look(c, p, search_it);
	else
		bury(c, p);
	p->was_looked_at = true;
	p->looked_at_tick = c->tick;
}

void coverage_opened(struct coverage *c, const struct flow_account *a)
{
	struct process *p = find_or_make(c, a->tgid, a->start_ns);

	if (!p)
		return;
	queue_push(&c->by_age, &p->age);
	if (!a->comm || !wants_look(c, p, a))
		return;
	keep_comm(p->thread, a->comm);
	look_if_alive(c, p, a->fate == FLOW_UNMATCHED);
	if (!p->comm[0]) /* gone already */
		keep_comm(p->comm, p->thread);
}

static void add(struct sums *s, const struct flow_account *a, bool was_paused)
{
	unsigned conf = a->confidence < CONFIDENCES ? a->confidence : CONF_UNKNOWN;

	s->flows[a->fate % FLOW_FATES]++;
	if (a->fate == FLOW_MIRRORED) {
		s->mirrored[conf]++;
		s->bytes[conf] += a->bytes;
		s->unexplained += a->is_unexplained;
		s->by_preload += a->by_preload;
	} else if (a->fate == FLOW_UNMATCHED && (a->is_late || was_paused)) {
		s->late++;
	}
}

void coverage_ended(struct coverage *c, const struct flow_account *a)
{
	struct process *p = find_or_make(c, a->tgid, a->start_ns);

	if (p)
		add(&p->ended, a, p->was_paused);
}

void coverage_unbound(struct coverage *c, const struct sslc_conn_id *conn, uint64_t bytes)
{
	struct process *p = find_or_make(c, conn->tgid, conn->start_ns);

	if (!p)
		return;
	p->unbound_bytes += bytes;
	queue_push(&c->by_age, &p->age);
	if (!p->was_looked_at)
		look_if_alive(c, p, false);
}

void coverage_pause(struct coverage *c, const struct capture_pause *pause)
{
	struct process *p = find(c, pause->pid, pause->start_ticks);

	if (!p && !pause->is_gone)
		p = make(c, pause->pid, pause->start_ticks);
	if (!p)
		return;
	p->is_paused = !pause->is_gone && !pause->until_ns;
	p->was_paused |= p->is_paused;
	p->percent = pause->percent;
	p->limit = pause->limit;
	p->retry_ns = pause->since_ns + pause->retry_s * NS_PER_S;
	if (!p->was_looked_at)
		look_if_alive(c, p, false);
}

void coverage_tick(struct coverage *c, uint64_t now_ns)
{
	struct queue_node *n = queue_first(&c->by_age), *next;

	c->now_ns = now_ns;
	c->tick++;
	for (; n; n = next) {
		struct process *p = queue_entry(n, struct process, age);

		next = queue_next(&c->by_age, n);
		if (p->is_dead && now_ns - p->died_ns > COVERAGE_DEAD_S * NS_PER_S)
			forget(c, p);
		else if (!p->is_dead && p->pid % TICKS_ROUND == c->tick % TICKS_ROUND &&
			 !is_alive(p))
			bury(c, p);
	}
}

void coverage_look(struct coverage *c, unsigned pid)
{
	struct process_stat st;
	struct process *p;

	if (!process_stat(pid, &st) || st.is_kernel)
		return;
	p = find(c, pid, st.start_ticks);
	if (!p)
		p = make(c, pid, st.start_ticks);
	if (!p)
		return;
	keep_comm(p->comm, st.comm);
	look(c, p, true);
	if (!p->mapped && !p->inside && !is_probed(p) && !p->is_self)
		forget(c, p);
}

uint64_t coverage_unsearched(const struct coverage *c)
{
	return c->unsearched;
}

/* --- what is told -------------------------------------------------------------------------------
 */

void coverage_live_begin(struct coverage *c)
{
	for (struct queue_node *n = queue_first(&c->by_age); n; n = queue_next(&c->by_age, n))
		queue_entry(n, struct process, age)->live = (struct sums){0};
}

void coverage_live(void *coverage, const struct flow_account *a)
{
	struct coverage *c = coverage;
	struct process *p = find_or_make(c, a->tgid, a->start_ns);

	if (p)
		add(&p->live, a, p->was_paused);
}

static struct sums all_of(const struct process *p)
{
	struct sums s = p->ended;

	for (int i = 0; i < FLOW_FATES; i++)
		s.flows[i] += p->live.flows[i];
	for (int i = 0; i < CONFIDENCES; i++) {
		s.mirrored[i] += p->live.mirrored[i];
		s.bytes[i] += p->live.bytes[i];
	}
	s.late += p->live.late;
	s.unexplained += p->live.unexplained;
	s.by_preload += p->live.by_preload;
	return s;
}

static enum reason why(const struct coverage *c, const struct process *p, const struct sums *s)
{
	struct reason_facts f = {
		.has_agent = c->conf.has_agent,
		.is_self = p->is_self,
		.mapped = p->mapped,
		.inside = p->inside,
		.has_symbols = p->has_symbols,
		.is_probed = is_probed(p),
		.mirrored = s->flows[FLOW_MIRRORED],
		.filtered = s->flows[FLOW_FILTERED],
		.standby = s->flows[FLOW_STANDBY],
		.unmatched = s->flows[FLOW_UNMATCHED],
		.unmatched_late = s->late,
		.unexplained = s->unexplained,
		.unbound_bytes = p->unbound_bytes,
		.is_paused = p->is_paused,
	};

	for (unsigned i = 0; i < p->n_files; i++)
		if (p->files[i]->functions < 0)
			f.error = -p->files[i]->functions;
	return reason_of(&f);
}

void coverage_count(struct coverage *c)
{
	uint64_t n[REASONS] = {0};

	for (struct queue_node *q = queue_first(&c->by_age); q; q = queue_next(&c->by_age, q)) {
		const struct process *p = queue_entry(q, struct process, age);
		struct sums s = all_of(p);

		n[why(c, p, &s)]++;
	}
	for (int r = 0; r < REASONS; r++)
		reason_gauge((enum reason)r, n[r]);
}

/* Names are whatever programs chose: what is not UTF-8 is shown as question marks. */
static json_t *text(const char *s)
{
	json_t *j = json_string(s);
	char *copy;

	if (j)
		return j;
	copy = strdup(s);
	for (char *p = copy; p && *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	j = copy ? json_string(copy) : NULL;
	free(copy);
	return j;
}

static json_t *families_json(const struct process *p)
{
	json_t *list = json_array();

	for (int f = 0; f < FAMILIES; f++) {
		if (p->mapped & FAMILY_BIT(f))
			json_array_append_new(list, json_string(family_word((enum family)f)));
		if (p->inside & FAMILY_BIT(f))
			json_array_append_new(
				list, json_sprintf("%s (static)", family_word((enum family)f)));
	}
	return list;
}

static json_t *files_json(const struct process *p)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < p->n_files; i++)
		json_array_append_new(list, text(p->files[i]->path));
	return list;
}

static json_t *flows_json(const struct sums *s)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "exact",
			 (json_int_t)s->mirrored[CONF_EXACT], "matched",
			 (json_int_t)s->mirrored[CONF_MATCHED], "inferred",
			 (json_int_t)(s->mirrored[CONF_INFERRED] + s->mirrored[CONF_UNKNOWN]),
			 "filtered", (json_int_t)s->flows[FLOW_FILTERED], "standby",
			 (json_int_t)s->flows[FLOW_STANDBY], "missed",
			 (json_int_t)s->flows[FLOW_UNMATCHED], "late", (json_int_t)s->late,
			 "unexplained", (json_int_t)s->unexplained);
}

static json_t *bytes_json(const struct process *p, const struct sums *s)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "exact", (json_int_t)s->bytes[CONF_EXACT],
			 "matched", (json_int_t)s->bytes[CONF_MATCHED], "inferred",
			 (json_int_t)(s->bytes[CONF_INFERRED] + s->bytes[CONF_UNKNOWN]), "unbound",
			 (json_int_t)p->unbound_bytes);
}

static json_t *words_json(const struct coverage *c, const struct process *p, enum reason r)
{
	uint64_t left_s = p->retry_ns > c->now_ns ? (p->retry_ns - c->now_ns) / NS_PER_S : 0;

	if (r != REASON_OVERHEAD)
		return json_string(reason_words(r));
	return json_sprintf("%u %% of its CPU time went into probes, limit %u %%; tried again in "
			    "%u s",
			    p->percent, p->limit, (unsigned)left_s);
}

/* NULL: nobody. */
static const char *captured_by(const struct sums *s)
{
	if (!s->flows[FLOW_MIRRORED])
		return NULL;
	if (!s->by_preload)
		return "bpf";
	return s->by_preload < s->flows[FLOW_MIRRORED] ? "bpf,preload" : "preload";
}

static json_t *process_json(const struct coverage *c, const struct process *p)
{
	struct sums s = all_of(p);
	enum reason r = why(c, p, &s);

	return json_pack("{s:i, s:I, s:o, s:o, s:o, s:b, s:o, s:o, s:s?, s:o, s:o, s:s, s:o, s:s}",
			 "pid", (int)p->pid, "start", (json_int_t)p->start_ticks, "command",
			 text(p->comm), "exe", text(p->exe), "container", text(p->container),
			 "alive", !p->is_dead, "tls", families_json(p), "libraries", files_json(p),
			 "captured_by", captured_by(&s), "flows", flows_json(&s), "bytes",
			 bytes_json(p, &s), "reason", reason_code(r), "words", words_json(c, p, r),
			 "advice", reason_advice(r));
}

static const char *error_words(int err)
{
	if (err == ENOEXEC)
		return "not a usable ELF file of this machine";
	return strerror(err);
}

static json_t *library_json(const struct coverage *c, const struct file *f)
{
	const char *why_not = NULL;

	if (!c->conf.has_agent)
		why_not = reason_words(REASON_NO_AGENT);
	else if (f->functions < 0)
		why_not = error_words(-f->functions);
	else if (f->why_not)
		why_not = f->why_not;
	else if (!f->was_probed)
		why_not = "not a kind of library that is probed in this version";
	else if (!f->functions)
		why_not = "no function inside that moves plaintext";
	return json_pack("{s:o, s:I, s:I, s:i, s:s?, s:s?, s:s?}", "path", text(f->path), "dev",
			 (json_int_t)f->dev, "ino", (json_int_t)f->ino, "functions", f->functions,
			 "why_not", why_not, "tier", f->tier, "lowered_from", f->lowered_from);
}

json_t *coverage_json(struct coverage *c)
{
	json_t *processes = json_array(), *libraries = json_array();

	for (struct queue_node *q = queue_first(&c->by_age); q; q = queue_next(&c->by_age, q)) {
		struct process *p = queue_entry(q, struct process, age);

		if (!p->is_dead && !is_alive(p))
			bury(c, p);
		json_array_append_new(processes, process_json(c, p));
	}
	for (struct hmap_node *n = hmap_any(&c->files, NULL); n; n = hmap_any(&c->files, n)) {
		const struct file *f = hmap_entry(n, struct file, node);

		if (f->was_probed || family_by_name(f->path) >= 0)
			json_array_append_new(libraries, library_json(c, f));
	}
	return json_pack("{s:o, s:o, s:I}", "processes", processes, "libraries", libraries,
			 "forgotten", (json_int_t)c->n_forgotten);
}

void coverage_free(struct coverage *c)
{
	struct queue_node *q;
	struct hmap_node *n;

	if (!c)
		return;
	while ((q = queue_first(&c->by_age)))
		forget(c, queue_entry(q, struct process, age));
	while ((n = hmap_any(&c->files, NULL))) {
		struct file *f = hmap_entry(n, struct file, node);

		hmap_remove(&c->files, n);
		free(f->path);
		free(f);
	}
	hmap_fini(&c->processes);
	hmap_fini(&c->files);
	free(c);
}
