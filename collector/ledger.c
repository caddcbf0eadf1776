/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ledger: see ledger.h. Flows of forge in, a mapped file out; and, once when a process begins, the
 * files of earlier ones in, RSTs out.
 *
 * A file is a page with the outlets, then slots. A slot's addresses are written once and its
 * checksum last: a slot that was being written has none, and nothing of it has left yet. The
 * numbers of the next packets are one word, which is never half written. A file belongs to who
 * holds its lock, which ends with the process.
 */
#include "ledger.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"

static COUNTER_DEFINE(c_open, "ledger_connections",
		      "forged connections that a restart would end (gauge)");
static COUNTER_DEFINE(c_full, "ledger_lost_full",
		      "connections that a restart would not end: their file was full");
static COUNTER_DEFINE(c_resets, "ledger_resets",
		      "connections of an earlier run that were ended when this one began");

#define MAGIC        0x31726467656c7373ull /* "sslegdr1"; says the order of bytes as well */
#define VERSION      1u
#define HEAD_LEN     4096u
#define PREFIX       "connections."
#define NEW_SUFFIX   ".new"
#define NEW_S        60u /* longer than one is being made */
#define NAME_ROOM    64u
#define NAMES_MAX    256u       /* that may be taken */
#define FILES_MAX    1024u      /* of one directory that are looked at */
#define NO_SLOT      UINT32_MAX /* in forge_flow.kept: there was no place */
#define SETTLE_BURST 256u       /* connections ended between two pauses: three packets each */
#define SETTLE_NS    NS_PER_MS  /* a sensor's ring is not flooded */
#define FRAME_ROOM   128u       /* headers only */

struct slot {
	uint8_t addr[2][16];
	uint16_t port[2];      /* as shown */
	uint16_t real_port[2]; /* by which an output may choose its way */
	uint16_t vlan;
	uint8_t family, outlet;
	uint8_t from; /* enum flow_dir: who resets it */
	uint8_t pad[3];
	_Atomic uint64_t nxt; /* client's in the upper half, server's in the lower one */
	_Atomic uint64_t sum; /* of what is before nxt; 0: free */
};
_Static_assert(sizeof(struct slot) == 64, "in a file; one cache line");
#define FIXED_LEN offsetof(struct slot, nxt)

struct place {
	uint8_t mac[12];
	uint16_t vlan, n;
	uint64_t sinks[SINKS_MAX]; /* struct sink's place; 0: not live */
};

struct head {
	uint64_t magic;
	uint32_t version, slot_len;
	struct place outlet[SINKS_MAX];
	uint64_t sum; /* of all before */
};
_Static_assert(sizeof(struct head) <= HEAD_LEN, "one page");

struct ledger {
	int dir, fd;
	char name[NAME_ROOM];
	struct head head; /* what the file has */
	uint8_t *map;     /* HEAD_LEN, then the slots */
	uint32_t n_slots; /* in the file; number 0 is not used */
	uint32_t n_used;  /* touched so far, number 0 included */
	uint32_t *next;   /* for each slot, in one of these lists: */
	uint32_t free;    /* 0: none */
	uint32_t ended;   /* until their last packets have left */
	uint32_t n_open;
	bool is_full; /* it grows no more */
};

static uint64_t sum_of(const void *p, size_t len)
{
	return sink_place(MAGIC, p, len);
}

static struct slot *slot_at(const struct ledger *l, uint32_t i)
{
	return (struct slot *)(void *)(l->map + HEAD_LEN) + i;
}

static size_t file_len(uint32_t n_slots)
{
	return HEAD_LEN + (size_t)n_slots * sizeof(struct slot);
}

/* The file */

/* Space first: a mapped page without any is a signal when it is written. */
static int file_grow(struct ledger *l, uint32_t n_slots)
{
	uint32_t *next = realloc(l->next, n_slots * sizeof(*next));
	uint8_t *map;
	int err;

	if (!next)
		return -ENOMEM;
	l->next = next;
	err = posix_fallocate(l->fd, 0, (off_t)file_len(n_slots));
	if (err)
		return -err;
	map = l->map ? mremap(l->map, file_len(l->n_slots), file_len(n_slots), MREMAP_MAYMOVE)
		     : mmap(NULL, file_len(n_slots), PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	l->map = map;
	l->n_slots = n_slots;
	return 0;
}

static void head_write(struct ledger *l)
{
	l->head.sum = sum_of(&l->head, offsetof(struct head, sum));
	memcpy(l->map, &l->head, sizeof(l->head));
}

static void file_drop(struct ledger *l)
{
	if (l->map)
		munmap(l->map, file_len(l->n_slots));
	l->map = NULL;
	l->n_slots = 0;
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

/* Locked before it has its name: nobody takes it for an abandoned one. -EEXIST: somebody has it. */
static int file_make_as(struct ledger *l, const char *name)
{
	char made[NAME_ROOM + sizeof(NEW_SUFFIX)];
	int err;

	snprintf(made, sizeof(made), "%s" NEW_SUFFIX, name);
	l->fd = openat(l->dir, made, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (l->fd < 0)
		return -errno;
	err = flock(l->fd, LOCK_EX | LOCK_NB) ? -errno : file_grow(l, LEDGER_FIRST);
	if (!err) {
		head_write(l);
		err = linkat(l->dir, made, l->dir, name, 0) ? -errno : 0;
		if (err == -EPERM || err == -EOPNOTSUPP) /* a file system without links */
			err = renameat(l->dir, made, l->dir, name) ? -errno : 0;
	}
	(void)unlinkat(l->dir, made, 0);
	return err;
}

/* Who shares the directory may run in a container, where process ids are the same as elsewhere. */
static int file_make(struct ledger *l)
{
	static atomic_uint serial;
	int err = -EEXIST;

	for (unsigned i = 0; i < NAMES_MAX && err == -EEXIST; i++) {
		file_drop(l);
		snprintf(l->name, sizeof(l->name), PREFIX "%ld.%u", (long)getpid(),
			 atomic_fetch_add(&serial, 1));
		err = file_make_as(l, l->name);
	}
	return err;
}

static void ledger_free(struct ledger *l)
{
	file_drop(l);
	if (l->dir >= 0)
		close(l->dir);
	free(l->next);
	free(l);
}

int ledger_open(struct ledger **out, const char *dir)
{
	struct ledger *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	sink_ignore_write_signals();
	l->head =
		(struct head){.magic = MAGIC, .version = VERSION, .slot_len = sizeof(struct slot)};
	l->n_used = 1;
	l->fd = -1;
	l->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = l->dir < 0 ? -errno : file_make(l);
	if (err) {
		ledger_free(l);
		return err;
	}
	*out = l;
	return 0;
}

void ledger_close(struct ledger *l)
{
	if (!l)
		return;
	ledger_flushed(l);
	counter_add(&c_open, 0 - (uint64_t)l->n_open);
	(void)unlinkat(l->dir, l->name, 0);
	ledger_free(l);
}

void ledger_outlet(struct ledger *l, unsigned index, const struct forge_link *link,
		   struct sink *const *sinks, unsigned n)
{
	struct place *p = &l->head.outlet[index];

	*p = (struct place){.vlan = link->vlan, .n = (uint16_t)n};
	memcpy(p->mac, link->mac, sizeof(p->mac));
	for (unsigned i = 0; i < n; i++)
		p->sinks[i] = sinks[i]->place;
	head_write(l);
}

/* Slots */

static void list_put(struct ledger *l, uint32_t *list, uint32_t i)
{
	l->next[i] = *list;
	*list = i;
}

static uint32_t list_take(struct ledger *l, uint32_t *list)
{
	uint32_t i = *list;

	*list = l->next[i];
	return i;
}

static void grow(struct ledger *l)
{
	uint32_t n_slots = l->n_slots < LEDGER_MAX ? l->n_slots * 2 : 0;
	int err = n_slots ? file_grow(l, n_slots) : -ENOSPC;

	l->is_full = err != 0;
	if (err)
		log_warn("ledger: no room for more than %u open connections: %s; after a kill the "
			 "others would stay open at the sensor",
			 l->n_slots - 1, n_slots ? strerror(-err) : "that is the most");
}

/* NO_SLOT: there is none. */
static uint32_t slot_take(struct ledger *l)
{
	if (l->free)
		return list_take(l, &l->free);
	if (l->n_used == l->n_slots && !l->is_full)
		grow(l);
	return l->n_used < l->n_slots ? l->n_used++ : NO_SLOT;
}

static uint64_t numbers_of(const struct forge_flow *f)
{
	return (uint64_t)f->side[FLOW_C2S].nxt << 32 | f->side[FLOW_S2C].nxt;
}

static void slot_fill(struct slot *s, unsigned index, const struct forge_flow *f,
		      const struct frame_flow_open *open)
{
	memcpy(s->addr, f->addr, sizeof(s->addr));
	memcpy(s->port, f->port, sizeof(s->port));
	s->real_port[FLOW_C2S] = open->client_port;
	s->real_port[FLOW_S2C] = open->server_port;
	s->vlan = f->vlan;
	s->family = f->family;
	s->outlet = (uint8_t)index;
	s->from = open->captured_end;
	memset(s->pad, 0, sizeof(s->pad));
	atomic_store_explicit(&s->nxt, numbers_of(f), memory_order_relaxed);
	atomic_store_explicit(&s->sum, sum_of(s, FIXED_LEN), memory_order_release);
}

static void flow_begins(struct ledger *l, unsigned index, struct forge_flow *f,
			const struct frame_flow_open *open)
{
	f->kept = slot_take(l);
	if (f->kept == NO_SLOT) {
		counter_inc(&c_full);
		return;
	}
	slot_fill(slot_at(l, f->kept), index, f, open);
	l->n_open++;
	counter_inc(&c_open);
}

void ledger_keep(struct ledger *l, unsigned index, struct forge_flow *f,
		 const struct frame_flow_open *open)
{
	if (f->state == FORGE_CLOSED) {
		if (f->kept && f->kept != NO_SLOT)
			list_put(l, &l->ended, f->kept);
		f->kept = 0;
	} else if (!f->kept) {
		flow_begins(l, index, f, open);
	} else if (f->kept != NO_SLOT) {
		atomic_store_explicit(&slot_at(l, f->kept)->nxt, numbers_of(f),
				      memory_order_relaxed);
	}
}

void ledger_flushed(struct ledger *l)
{
	while (l && l->ended) {
		uint32_t i = list_take(l, &l->ended);

		atomic_store_explicit(&slot_at(l, i)->sum, 0, memory_order_relaxed);
		list_put(l, &l->free, i);
		l->n_open--;
		counter_add(&c_open, UINT64_MAX); /* one less */
	}
}

/* What others have left */

struct settling {
	const struct sink_set *sinks;
	struct sink *to; /* the one whose turn it is */
	struct sink_flow who;
	struct frame_flow_open open;
	uint8_t frame[FRAME_ROOM];
	unsigned n, burst;  /* ended; of those since the last pause */
	unsigned elsewhere; /* at outputs that are no longer there */
};

static void on_packet(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct settling *st = ctx;

	st->to->ops->packet(st->to, l2, ts_ns, &st->who, first);
}

static struct sink *sink_at(const struct sink_set *sinks, uint64_t place)
{
	for (unsigned i = 0; i < sinks->n; i++)
		if (sinks->v[i]->place == place)
			return sinks->v[i];
	return NULL;
}

static void settle_pause(struct settling *st)
{
	const struct timespec t = {.tv_nsec = SETTLE_NS};

	for (unsigned i = 0; i < st->sinks->n; i++)
		if (st->sinks->v[i]->place && st->sinks->v[i]->ops->flush)
			st->sinks->v[i]->ops->flush(st->sinks->v[i]);
	(void)nanosleep(&t, NULL);
	st->burst = 0;
}

static void slot_reset(struct settling *st, const struct slot *s, const struct place *p)
{
	struct forge_link link = {.vlan = p->vlan};
	struct forge_out out = {.emit = on_packet, .ctx = st, .link = &link, .frame = st->frame};
	struct forge_flow f = {.vlan = s->vlan, .family = s->family};
	uint64_t nxt = atomic_load_explicit(&s->nxt, memory_order_relaxed);

	memcpy(link.mac, p->mac, sizeof(link.mac));
	memcpy(f.addr, s->addr, sizeof(f.addr));
	memcpy(f.port, s->port, sizeof(f.port));
	for (int d = 0; d < 2; d++) {
		f.side[d].nxt = d == FLOW_C2S ? (uint32_t)(nxt >> 32) : (uint32_t)nxt;
		f.side[d].ip_id = (uint16_t)f.side[d].nxt;
	}
	forge_rst_unknown(&f, &out, (enum flow_dir)s->from, clock_wall_ns());
}

static void slot_settle(struct settling *st, const struct slot *s, const struct head *head)
{
	const struct place *p = &head->outlet[s->outlet % SINKS_MAX];
	bool any = false;

	st->open = (struct frame_flow_open){.transport = 6,
					    .family = s->family,
					    .client_port = s->real_port[FLOW_C2S],
					    .server_port = s->real_port[FLOW_S2C]};
	memcpy(st->open.client_addr, s->addr[FLOW_C2S], 16);
	memcpy(st->open.server_addr, s->addr[FLOW_S2C], 16);
	for (unsigned i = 0; i < p->n; i++) {
		st->to = p->sinks[i] ? sink_at(st->sinks, p->sinks[i]) : NULL;
		if (st->to)
			slot_reset(st, s, p);
		any = any || st->to;
	}
	st->n += any;
	st->elsewhere += !any;
	counter_add(&c_resets, any);
	if (any && ++st->burst == SETTLE_BURST)
		settle_pause(st);
}

static bool is_sound(const struct slot *s)
{
	uint64_t sum = atomic_load_explicit(&s->sum, memory_order_relaxed);

	return sum && sum == sum_of(s, FIXED_LEN) && (s->family == 4 || s->family == 6) &&
	       s->outlet < SINKS_MAX && s->from <= FLOW_S2C;
}

/* Read, not mapped: whatever becomes of the file meanwhile is an error, and no signal. */
static void slots_settle(struct settling *st, int fd, const struct head *head)
{
	struct slot some[64];
	off_t at = HEAD_LEN, end = (off_t)file_len(LEDGER_MAX);
	ssize_t n;

	for (; at < end; at += n) {
		n = pread(fd, some, sizeof(some), at);
		n -= n % (ssize_t)sizeof(some[0]);
		if (n <= 0)
			return;
		for (size_t i = 0; i < (size_t)n / sizeof(some[0]); i++)
			if (is_sound(&some[i]))
				slot_settle(st, &some[i], head);
	}
}

static bool head_read(int fd, struct head *head)
{
	if (pread(fd, head, sizeof(*head), 0) != (ssize_t)sizeof(*head) || head->magic != MAGIC ||
	    head->version != VERSION || head->slot_len != sizeof(struct slot) ||
	    head->sum != sum_of(head, offsetof(struct head, sum)))
		return false;
	for (unsigned i = 0; i < SINKS_MAX; i++)
		if (head->outlet[i].n > SINKS_MAX)
			return false;
	return true;
}

/* Whether its process no longer runs, and nobody else has just settled it. A file that is being
 * made has no lock for a moment. */
static bool is_abandoned(int fd, bool is_new)
{
	struct stat st;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) ||
	    (is_new && st.st_mtime + NEW_S > (time_t)(clock_wall_ns() / NS_PER_S)))
		return false;
	return !flock(fd, LOCK_EX | LOCK_NB) && !fstat(fd, &st) && st.st_nlink > 0;
}

static void file_settle(struct settling *st, int dir, const char *name)
{
	int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	bool is_new = strstr(name, NEW_SUFFIX) != NULL;
	struct head head;

	if (fd < 0)
		return;
	if (is_abandoned(fd, is_new)) {
		if (head_read(fd, &head))
			slots_settle(st, fd, &head);
		else if (!is_new)
			log_warn("ledger: %s: not of this version, or damaged: ignored", name);
		(void)unlinkat(dir, name, 0);
	}
	close(fd);
}

static void dir_settle(struct settling *st, DIR *dir)
{
	struct dirent *d;

	for (unsigned i = 0; i < FILES_MAX && (d = readdir(dir)) != NULL; i++)
		if (!strncmp(d->d_name, PREFIX, strlen(PREFIX)))
			file_settle(st, dirfd(dir), d->d_name);
}

void ledgers_settle(const char *dir, const struct sink_set *sinks)
{
	struct settling st = {.sinks = sinks, .who = {.host = "-"}};
	DIR *d = opendir(dir);

	if (!d)
		return;
	st.who.open = &st.open;
	dir_settle(&st, d);
	closedir(d);
	if (st.burst)
		settle_pause(&st);
	if (st.n || st.elsewhere)
		log_info("ledger: connections that an earlier run had left open: ended=%u "
			 "output_gone=%u",
			 st.n, st.elsewhere);
}
