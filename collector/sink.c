/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink: the outputs of one run. Frames and messages come in, every opened sink gets each; trouble
 * of one sink stays in it. The table of kinds is here, and what several kinds need: harmless words,
 * standard output, writing with a bounded wait.
 */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "sinks/sink_shared.h"

static const struct sink_ops *const kinds[] = {
	&sink_iface_ops, &sink_fan_ops,    &sink_pcap_ops, &sink_tcp_ops,     &sink_dial_ops,
	&sink_vxlan_ops, &sink_geneve_ops, &sink_text_ops, &sink_streams_ops,
};

static const struct sink_ops *kind_find(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i]->name, name))
			return kinds[i];
	return NULL;
}

static int sink_open_one(struct sink **out, const struct sink_conf *conf)
{
	const struct sink_ops *ops = kind_find(conf->kind);
	int err;

	if (!ops) {
		log_error("sink: %s: no such kind of output", conf->kind);
		return -EINVAL;
	}
	err = ops->open(out, conf);
	if (err)
		return err;
	(*out)->shape = conf->shape;
	(*out)->shape.gso = ops->cuts && ops->cuts(*out);
	return 0;
}

int sinks_open(struct sink_set *set, const struct sink_conf *conf, unsigned n)
{
	int err;

	set->n = 0;
	if (n > SINKS_MAX) {
		log_error("sink: %u outputs: at most %d are possible", n, SINKS_MAX);
		return -E2BIG;
	}
	for (unsigned i = 0; i < n; i++) {
		err = sink_open_one(&set->v[i], &conf[i]);
		if (err)
			goto fail;
		set->n++;
	}
	return 0;
fail:
	sinks_close(set);
	return err;
}

/* One more sink for each worker. */
static int open_own(struct sink_set *sets, unsigned n_sets, const struct sink_conf *conf)
{
	struct sink_conf one = *conf;
	int err = 0;

	for (unsigned i = 0; !err && i < n_sets; i++) {
		struct sink_set *set = &sets[i];

		one.index = i;
		err = sink_open_one(&set->v[set->n], &one);
		if (err)
			break;
		if (i == 0)
			one.leader = set->v[set->n];
		set->n++;
	}
	return err;
}

static int open_shared(struct sink_set *sets, unsigned n_sets, const struct sink_conf *conf)
{
	struct shared *shared = NULL;
	struct sink *real = NULL;
	int err = sink_open_one(&real, conf);

	if (!err)
		err = shared_new(&shared, real);
	if (err)
		return err;
	for (unsigned i = 0; !err && i < n_sets; i++) {
		err = shared_join(&sets[i].v[sets[i].n], shared);
		sets[i].n += !err;
	}
	shared_unref(shared);
	return err;
}

int sinks_open_for(struct sink_set *sets, unsigned n_sets, const struct sink_conf *conf, unsigned n)
{
	int err = 0;

	if (n_sets == 1 || n > SINKS_MAX) /* too many: it says so */
		return sinks_open(sets, conf, n);
	for (unsigned i = 0; !err && i < n; i++) {
		const struct sink_ops *ops = kind_find(conf[i].kind);

		err = (ops && ops->is_many ? open_own : open_shared)(sets, n_sets, &conf[i]);
	}
	for (unsigned i = n_sets; err && i--;)
		sinks_close(&sets[i]);
	return err;
}

void sinks_message(struct sink_set *set, const struct sink_flow *flow, enum flow_dir dir,
		   struct span bytes, bool end, uint64_t ts_ns)
{
	for (unsigned i = 0; i < set->n; i++)
		if (set->v[i]->ops->message)
			set->v[i]->ops->message(set->v[i], flow, dir, bytes, end, ts_ns);
}

void sinks_stream(const struct sink_set *set, const struct sink_stream *stream, uint64_t ts_ns)
{
	for (unsigned i = 0; i < set->n; i++)
		if (set->v[i]->ops->stream)
			set->v[i]->ops->stream(set->v[i], stream, ts_ns);
}

void sinks_flush(struct sink_set *set)
{
	for (unsigned i = 0; i < set->n; i++)
		if (set->v[i]->ops->flush)
			set->v[i]->ops->flush(set->v[i]);
}

void sinks_tick(struct sink_set *set, uint64_t now_ns)
{
	for (unsigned i = 0; i < set->n; i++)
		if (set->v[i]->ops->tick)
			set->v[i]->ops->tick(set->v[i], now_ns);
}

void sinks_reopen(struct sink_set *set)
{
	for (unsigned i = 0; i < set->n; i++)
		if (set->v[i]->ops->reopen)
			set->v[i]->ops->reopen(set->v[i]);
}

void sinks_close(struct sink_set *set)
{
	while (set->n) {
		struct sink *s = set->v[--set->n];

		s->ops->close(s);
	}
}

static uint64_t load_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* MurmurHash3's finalizer: every input bit reaches every output bit. */
static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 33) * 0xff51afd7ed558ccdull;
	v = (v ^ v >> 33) * 0xc4ceb9fe1a85ec53ull;
	return v ^ v >> 33;
}

static uint64_t mix_end(const uint8_t addr[16], uint16_t port)
{
	return mix(mix(mix(load_u64(addr)) + load_u64(addr + 8)) + port);
}

/* The sum does not tell the ends apart: a connection seen the other way round goes the same way. */
unsigned sink_flow_choice(const struct frame_flow_open *o, unsigned n)
{
	uint64_t h = mix(mix_end(o->client_addr, o->client_port) +
			 mix_end(o->server_addr, o->server_port));

	return (unsigned)((h >> 32) * n >> 32); /* evenly, whatever n is */
}

/* No secret: it is compared, and that with what root has written. */
uint64_t sink_place(uint64_t from, const void *p, size_t len)
{
	const uint8_t *b = p;
	uint64_t h = mix(from + len + 1);

	for (size_t i = 0; i < len; i++)
		h = mix(h + b[i] + 1);
	return h ? h : 1;
}

static bool is_plain(uint8_t c)
{
	return c > ' ' && c <= '~' && c != '\\';
}

static void put_escaped(struct buf *out, uint8_t c)
{
	static const char hex[] = "0123456789abcdef";
	const char text[] = {'\\', 'x', hex[c >> 4], hex[c & 15]};

	wr_bytes(out, text, sizeof(text));
}

void sink_put_word(struct buf *out, struct span foreign)
{
	size_t i = 0;

	while (i < foreign.len) {
		size_t start = i;

		while (i < foreign.len && is_plain(foreign.p[i]))
			i++;
		wr_bytes(out, foreign.p + start, i - start);
		if (i < foreign.len)
			put_escaped(out, foreign.p[i++]);
	}
}

static int take_port(const char *text, uint16_t *port)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || !v || v > UINT16_MAX)
		return -EINVAL;
	*port = (uint16_t)v;
	return 0;
}

int sink_split_address(const char *text, char host[256], uint16_t *port)
{
	bool bracket = *text == '[';
	const char *begin = text + bracket, *end = begin + strcspn(begin, bracket ? "]" : ":");
	const char *rest = end + (bracket && *end);

	host[0] = '\0';
	if (!*end && !bracket && begin[strspn(begin, "0123456789")] == '\0')
		return take_port(begin, port);
	if (end == begin || end - begin > 255 || (bracket && !*end) || (*rest && *rest != ':'))
		return -EINVAL;
	memcpy(host, begin, (size_t)(end - begin));
	host[end - begin] = '\0';
	return *rest ? take_port(rest + 1, port) : 0;
}

/* Opening the same pipe or terminal again gives flags that no other process shares with us. */
static int stdout_reopen(void)
{
	return open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

int sink_stdout_open(void)
{
	struct stat st;
	int fd = -1;

	if (fstat(STDOUT_FILENO, &st))
		return -errno;
	if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))
		fd = stdout_reopen();
	if (fd <
	    0) /* a file, whose position we must keep; a socket; or a terminal of another user */
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : fd;
}

void sink_ignore_write_signals(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

static bool is_writable_before(int fd, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	uint64_t now = clock_mono_ns();

	if (now >= deadline_ns)
		return false;
	return poll(&p, 1, (int)((deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS)) != 0;
}

size_t sink_write(int fd, struct span bytes, unsigned wait_ms, int *err)
{
	uint64_t deadline_ns = wait_ms ? clock_mono_ns() + wait_ms * NS_PER_MS : 0;
	size_t done = 0;

	*err = 0;
	while (done < bytes.len) {
		ssize_t n = write(fd, bytes.p + done, bytes.len - done);

		if (n > 0) {
			done += (size_t)n;
		} else if (n == 0) {
			*err = -EIO;
			break;
		} else if (errno == EINTR ||
			   (errno == EAGAIN && is_writable_before(fd, deadline_ns))) {
			continue;
		} else {
			*err = -errno;
			break;
		}
	}
	return done;
}
