/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_pcap: packets into a file, a FIFO or standard output: pcapng with a comment that names the
 * process, or classic pcap when the name ends in ".pcap". Whole blocks gather in one buffer; what
 * leaves the buffer is counted, what cannot leave is counted as lost. Never leaves half a block at
 * the end of a file, never waits long for a reader, never writes to a terminal.
 */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "sinks/pcapfmt.h"
#include "sinks/spool.h"

#define PCAP_BUF_MAX  (4u << 20)   /* memory for a disk that is full or a reader that is slow */
#define PCAP_WRITE_AT (256u << 10) /* do not wait for flush() with more than this */
#define PCAP_STALL_MS 100   /* a slow reader may hold up all other outputs so long, once a tick */
#define PCAP_CLOSE_MS 2000  /* the same for the last bytes */
#define PCAP_WARN_MS  30000 /* between two lines about the same slow reader */

static COUNTER_DEFINE(c_packets, "sink_pcap_packets", "packets written to files and pipes");
static COUNTER_DEFINE(c_bytes, "sink_pcap_bytes", "bytes written to files and pipes");
static COUNTER_DEFINE(c_lost_disk, "sink_pcap_lost_disk", "packets lost: the file took no more");
static COUNTER_DEFINE(c_lost_reader, "sink_pcap_lost_reader",
		      "packets lost: a pipe's reader was gone or too slow");
static COUNTER_DEFINE(c_finished, "sink_pcap_files_closed", "files finished, the next one begun");
static COUNTER_DEFINE(c_removed, "sink_pcap_files_removed",
		      "finished files removed to keep within the limits");
static COUNTER_DEFINE(c_lost_memory, "sink_pcap_lost_memory", "packets lost: out of memory");

enum pcap_state {
	PCAP_WRITING, /* fd takes what we give */
	PCAP_FULL, /* the file takes no more and ends with a whole block; tried again each tick */
	PCAP_STALLED,   /* the pipe's reader does not read; tried again without waiting */
	PCAP_NO_READER, /* fd is closed; a FIFO is opened again each tick */
};

struct pcap_sink {
	struct sink sink;
	const struct pcap_format *format;
	char *name; /* for log lines and for opening again */
	enum pcap_state state;
	int fd;          /* -1 in PCAP_NO_READER only */
	bool is_file;    /* regular: can be cut back */
	bool is_fifo;    /* has a name: can be opened again */
	struct buf out;  /* begins at a block border, holds whole blocks */
	size_t head_len; /* file header at the front of `out`; not a packet */
	size_t sent;     /* bytes of the first block that a pipe has taken already */
	off_t good;      /* regular: file length up to the last whole block */
	off_t file_head; /* regular: length of the header in it */
	struct sink_rotation rotation;
	struct spool *spool;   /* NULL: no rotation */
	uint64_t first_ts_ns;  /* of the file's first packet; 0: it has none */
	uint64_t last_ts_ns;   /* of the packet given last */
	uint64_t aged_from_ns; /* monotonic: the file's first tick with a packet in it; 0: none */
	bool held;             /* no new file could be begun: not tried again until the tick */
	uint64_t kept;         /* bytes of finished files, when they were looked through last */
	bool has_looked;       /* through them, since the start */
	bool reopen;           /* wanted, and not done yet */
	bool with_reader;
	bool is_stdout;
	struct buf comment; /* scratch for the packet at hand */
	uint64_t lost;      /* packets, since the start */
	bool waited;        /* for a slow reader, since the last tick */
	struct log_rate slow_rate, next_rate;
};

/* Bookkeeping of what left the buffer */

/* The longest run of whole blocks (and the file header) within the first `limit` bytes of `out`. */
static size_t whole_blocks(const struct pcap_sink *s, size_t limit, uint64_t *packets)
{
	size_t off = s->head_len;

	*packets = 0;
	if (limit < off)
		return 0;
	while (off < limit) {
		size_t len = s->format->block_len(s->out.p + off);

		if (len > limit - off)
			break;
		off += len;
		++*packets;
	}
	return off;
}

static void settle(struct pcap_sink *s)
{
	uint64_t packets;
	size_t whole = whole_blocks(s, s->sent, &packets);

	buf_consume(&s->out, whole);
	s->sent -= whole;
	s->good += (off_t)whole;
	if (whole)
		s->head_len = 0;
	counter_add(&c_packets, packets);
	counter_add(&c_bytes, whole);
}

static struct counter *lost_counter(const struct pcap_sink *s)
{
	return s->is_file ? &c_lost_disk : &c_lost_reader;
}

static void lose(struct pcap_sink *s, struct counter *why, uint64_t packets)
{
	s->lost += packets;
	counter_add(why, packets);
}

static void lose_buffered(struct pcap_sink *s)
{
	uint64_t packets;

	(void)whole_blocks(s, s->out.len, &packets);
	lose(s, lost_counter(s), packets);
	buf_reset(&s->out);
	s->sent = 0;
	s->head_len = 0;
}

static void set_writing(struct pcap_sink *s)
{
	if (s->state == PCAP_FULL || s->state == PCAP_NO_READER)
		log_info("sink_pcap: %s: writing again lost=%llu", s->name,
			 (unsigned long long)s->lost);
	s->state = PCAP_WRITING;
}

/* Cut the file back so that readers find its end intact; what was cut off is still in `out`. */
static void file_failed(struct pcap_sink *s, int err)
{
	s->sent = 0;
	if (ftruncate(s->fd, s->good) || lseek(s->fd, s->good, SEEK_SET) < 0)
		log_error("sink_pcap: %s: cannot cut off an incomplete packet: %s", s->name,
			  strerror(errno));
	if (s->head_len)
		log_error("sink_pcap: %s: cannot write: %s", s->name, strerror(-err));
	else if (s->state != PCAP_FULL)
		log_error(
			"sink_pcap: %s: cannot write: %s; packets for it are counted as lost once "
			"%u MiB are waiting; trying again every second",
			s->name, strerror(-err), PCAP_BUF_MAX >> 20);
	s->state = PCAP_FULL;
}

static void reader_gone(struct pcap_sink *s, int err)
{
	lose_buffered(s);
	close(s->fd);
	s->fd = -1;
	s->state = PCAP_NO_READER;
	if (s->with_reader) {
		log_info("sink_pcap: %s: the reader is gone: this is the end", s->name);
		(void)kill(getpid(), SIGTERM);
		return;
	}
	log_error("sink_pcap: %s: %s: %s; packets for it are counted as lost%s", s->name,
		  err == -EPIPE ? "the reader is gone" : "cannot write", strerror(-err),
		  s->is_fifo ? " until another one opens it" : "");
}

static void pcap_push(struct pcap_sink *s, unsigned wait_ms)
{
	size_t n;
	int err;

	if (s->fd < 0 || s->sent == s->out.len)
		return;
	n = sink_write(s->fd, span_of(s->out.p + s->sent, s->out.len - s->sent), wait_ms, &err);
	s->sent += n;
	settle(s);
	if (s->is_file && err)
		file_failed(s, err);
	else if (err && err != -EAGAIN)
		reader_gone(s, err);
	else if (n)
		set_writing(s);
}

static void set_stalled(struct pcap_sink *s)
{
	uint64_t held;

	s->state = PCAP_STALLED;
	if (log_rate_ok(&s->slow_rate, PCAP_WARN_MS, &held))
		log_warn(
			"sink_pcap: %s: its reader is too slow; packets for it are counted as lost "
			"lost=%llu",
			s->name, (unsigned long long)s->lost + 1);
}

static bool has_room(const struct pcap_sink *s, size_t need)
{
	return need <= s->out.max - s->out.len;
}

/* Room for a block of `need` bytes; waits for a slow reader at most once a tick. */
static bool make_room(struct pcap_sink *s, size_t need)
{
	if (has_room(s, need))
		return true;
	if (s->state != PCAP_WRITING)
		return false;
	pcap_push(s, s->waited ? 0 : PCAP_STALL_MS);
	s->waited = true;
	if (s->state == PCAP_WRITING && !has_room(s, need))
		set_stalled(s);
	return s->fd >= 0 && has_room(s, need);
}

/* Rotation */

static bool has_packets(const struct pcap_sink *s)
{
	return s->good > s->file_head || s->out.len > s->head_len;
}

/* It is tried every second, not told every second. */
static bool may_complain(struct pcap_sink *s)
{
	uint64_t held;

	return log_rate_ok(&s->next_rate, PCAP_WARN_MS, &held);
}

static bool header_fits(struct pcap_sink *s, int fd, size_t *len)
{
	struct buf head;
	int err = -ENOMEM;

	buf_init(&head, PCAP_WRITE_AT);
	s->format->header(&head);
	*len = head.len;
	if (!head.bad)
		sink_write(fd, buf_span(&head), 0, &err);
	buf_fini(&head);
	if (err && may_complain(s))
		log_error("sink_pcap: %s: cannot begin a new file: %s; the old one goes on, trying "
			  "again every second",
			  s->name, strerror(-err));
	return !err;
}

/* `fd`, with a header of `len` bytes in it, takes over. What waits in the buffer goes into it. */
static void take_over(struct pcap_sink *s, int fd, size_t len)
{
	if (close(s->fd))
		log_error("sink_pcap: %s: cannot close: %s", s->name, strerror(errno));
	s->fd = fd;
	s->good = s->file_head = (off_t)len;
	buf_consume(&s->out, s->head_len);
	s->head_len = 0;
	s->first_ts_ns = s->out.len ? s->last_ts_ns : 0;
	s->aged_from_ns = 0;
}

/* The next file, beside the one being written: FILE.new. Its descriptor, or -1 (logged). */
static int next_open(struct pcap_sink *s, const char *name, size_t *len)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = open(name, flags, 0600);

	if (fd < 0 && errno == EEXIST && !unlink(name)) /* left by a process that was killed */
		fd = open(name, flags, 0600);
	if (fd < 0) {
		int err = errno;

		if (may_complain(s))
			log_error("sink_pcap: %s: cannot open: %s; %s goes on, trying again every "
				  "second",
				  name, strerror(err), s->name);
	} else if (!header_fits(s, fd, len)) {
		close(fd);
		unlink(name);
		fd = -1;
	}
	return fd;
}

static int finish_file(struct pcap_sink *s)
{
	int err = spool_finish(s->spool, s->first_ts_ns ? s->first_ts_ns : clock_wall_ns());

	if (err == -ENOENT) {
		log_warn("sink_pcap: %s: was taken away while it was written", s->name);
		err = 0;
	} else if (err) {
		if (may_complain(s))
			log_error("sink_pcap: %s: cannot give the finished file its name: %s",
				  s->name, strerror(-err));
	} else {
		counter_inc(&c_finished);
	}
	return err;
}

/* What may remain of the finished files: the one being written has its share. */
static uint64_t may_keep(const struct pcap_sink *s)
{
	uint64_t live = (uint64_t)s->good, keep = s->rotation.keep_bytes;

	if (live < s->rotation.bytes) /* what it may become before we look again */
		live = s->rotation.bytes;
	if (!keep)
		return UINT64_MAX;
	return keep > live ? keep - live : 0;
}

static void trim_files(struct pcap_sink *s)
{
	const struct sink_rotation *r = &s->rotation;
	int n;

	s->has_looked = true;
	if (!r->keep_bytes && !r->keep_files)
		return;
	n = spool_trim(s->spool, r->keep_files, may_keep(s), &s->kept);
	if (n > 0)
		counter_add(&c_removed, (uint64_t)n);
	else if (n < 0 && may_complain(s))
		log_error("sink_pcap: %s: cannot look for old files: %s", s->name, strerror(-n));
}

/* The file is finished and another one begins, or everything stays as it is until the next tick. */
static void rotate(struct pcap_sink *s)
{
	char next[PATH_MAX];
	size_t len;
	int fd;

	pcap_push(s, 0);
	s->held = true;
	if (s->state != PCAP_WRITING)
		return;
	if (snprintf(next, sizeof(next), "%s.new", s->name) >= (int)sizeof(next))
		return;
	fd = next_open(s, next, &len);
	if (fd < 0)
		return;
	if (finish_file(s)) {
		close(fd);
		unlink(next);
		return;
	}
	if (rename(next, s->name))
		log_error("sink_pcap: %s: cannot be named %s: %s", next, s->name, strerror(errno));
	take_over(s, fd, len);
	s->held = false;
	trim_files(s);
}

/* logrotate(8) may have given the file another name. */
static void reopen_file(struct pcap_sink *s)
{
	int fd = open(s->name, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC,
		      0600);
	struct stat is, was;
	size_t len;

	s->reopen = false;
	if (fd < 0 || fstat(fd, &is) || fstat(s->fd, &was)) {
		log_error("sink_pcap: %s: cannot open again: %s; the old one goes on", s->name,
			  strerror(errno));
	} else if (is.st_dev == was.st_dev && is.st_ino == was.st_ino) {
		log_info("sink_pcap: %s: is still the same file", s->name);
	} else if (!S_ISREG(is.st_mode) || is.st_uid != geteuid() || ftruncate(fd, 0)) {
		log_error("sink_pcap: %s: is now something else; the old file goes on", s->name);
	} else if (header_fits(s, fd, &len)) {
		take_over(s, fd, len);
		log_info("sink_pcap: %s: begun anew", s->name);
		return;
	} else {
		s->reopen = true;
	}
	if (fd >= 0)
		close(fd);
}

static void pcap_reopen(struct sink *sink)
{
	struct pcap_sink *s = (struct pcap_sink *)sink;

	if (!s->is_file || s->is_stdout)
		return;
	pcap_push(s, 0);
	if (!s->spool)
		reopen_file(s);
	else if (has_packets(s))
		rotate(s);
}

static bool is_full_size(const struct pcap_sink *s, size_t need)
{
	return s->rotation.bytes && has_packets(s) && !s->held &&
	       (uint64_t)s->good + s->out.len + need > s->rotation.bytes;
}

static bool is_old(struct pcap_sink *s, uint64_t now_ns)
{
	if (!s->rotation.seconds || !has_packets(s))
		return false;
	if (!s->aged_from_ns)
		s->aged_from_ns = now_ns;
	return now_ns - s->aged_from_ns >= s->rotation.seconds * NS_PER_S;
}

/* Packets */

static void pcap_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
			const struct sink_flow *flow, bool first)
{
	struct pcap_sink *s = (struct pcap_sink *)sink;
	size_t need;

	buf_reset(&s->comment);
	if (first && flow && flow->open && s->format->has_comments)
		pcapfmt_comment(&s->comment, flow, &s->sink.shape);
	need = PCAPFMT_OVERHEAD + l2.len + s->comment.len;
	if (is_full_size(s, need))
		rotate(s);
	if (s->fd < 0 || !make_room(s, need)) {
		lose(s, lost_counter(s), 1);
	} else if (buf_reserve(&s->out, need)) {
		s->out.bad = false;
		lose(s, &c_lost_memory, 1);
	} else {
		s->format->packet(&s->out, l2, ts_ns, buf_span(&s->comment));
		s->last_ts_ns = ts_ns;
		if (!s->first_ts_ns)
			s->first_ts_ns = ts_ns;
		if (s->out.len - s->sent > PCAP_WRITE_AT && s->state == PCAP_WRITING)
			pcap_push(s, 0);
	}
}

static void pcap_flush(struct sink *sink)
{
	struct pcap_sink *s = (struct pcap_sink *)sink;

	if (s->state == PCAP_WRITING || s->state == PCAP_STALLED)
		pcap_push(s, 0);
}

/* Opening */

static int refuse(const struct pcap_sink *s, const char *why)
{
	log_error("sink_pcap: %s: %s", s->name, why);
	return -EINVAL;
}

static int begin_output(struct pcap_sink *s)
{
	buf_reset(&s->out);
	s->sent = 0;
	s->head_len = 0;
	s->format->header(&s->out);
	if (s->out.bad)
		return -ENOMEM;
	s->head_len = s->out.len;
	s->file_head = s->good + (off_t)s->head_len;
	return 0;
}

static int adopt_stdout(struct pcap_sink *s)
{
	struct stat st;

	if (isatty(STDOUT_FILENO))
		return refuse(s, "packets are not written to a terminal; use a pipe "
				 "(-w - | tshark -r -) or -w FILE");
	s->fd = sink_stdout_open();
	if (s->fd < 0 || fstat(s->fd, &st)) {
		log_error("sink_pcap: %s: cannot open: %s", s->name, strerror(errno));
		return -errno;
	}
	s->is_file = S_ISREG(st.st_mode);
	s->good = s->is_file ? lseek(s->fd, 0, SEEK_CUR) : 0;
	return 0;
}

/*
 * The file will hold plaintext, and root may write it into a directory that others can write to: no
 * symbolic link is followed, no file that belongs to somebody else is filled.
 */
static int check_file(struct pcap_sink *s)
{
	struct stat st;

	if (fstat(s->fd, &st))
		return -errno;
	s->is_file = S_ISREG(st.st_mode);
	s->is_fifo = S_ISFIFO(st.st_mode);
	if (!s->is_file && !s->is_fifo)
		return refuse(s, "is neither a file nor a FIFO; choose another name");
	if (s->is_file && st.st_uid != geteuid())
		return refuse(s,
			      "belongs to another user, who could read the plaintext; remove it or "
			      "choose another name");
	if (s->is_file && ftruncate(s->fd, 0))
		return -errno;
	return 0;
}

static bool is_fifo(const char *name)
{
	struct stat st;

	return !lstat(name, &st) && S_ISFIFO(st.st_mode);
}

static int open_failed(const struct pcap_sink *s, int err)
{
	if (err == -ELOOP)
		return refuse(s, "is a symbolic link; name the file itself");
	if (err == -EISDIR)
		return refuse(s, "is a directory; name a file in it");
	log_error("sink_pcap: %s: cannot open: %s", s->name, strerror(-err));
	return err;
}

static int open_named(struct pcap_sink *s)
{
	int err;

	/* non-blocking: a FIFO without a reader must not hang us; without meaning for files */
	s->fd = open(s->name, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC,
		     0600);
	if (s->fd < 0 && errno == ENXIO && is_fifo(s->name)) {
		s->is_fifo = true;
		s->state = PCAP_NO_READER;
		log_info("sink_pcap: %s: waits for a reader", s->name);
		return 0;
	}
	if (s->fd < 0)
		return open_failed(s, -errno);
	err = check_file(s);
	if (err && err != -EINVAL)
		return open_failed(s, err);
	return err;
}

/* A file that an earlier run left behind is finished: it is not begun anew. */
static int keep_leftover(struct pcap_sink *s)
{
	struct stat st;

	if (lstat(s->name, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || !st.st_size)
		return 0;
	s->first_ts_ns = (uint64_t)st.st_mtim.tv_sec * NS_PER_S;
	return finish_file(s);
}

static int open_rotated(struct pcap_sink *s)
{
	int err = spool_new(&s->spool, s->name);

	if (err)
		return open_failed(s, err);
	err = keep_leftover(s);
	s->first_ts_ns = 0;
	if (!err)
		err = open_named(s);
	if (!err && !s->is_file)
		err = refuse(s, "is a FIFO: only files can be rotated");
	return err;
}

/* Somebody reads the FIFO now: he gets a file of his own, from its header on. */
static void reopen_fifo(struct pcap_sink *s)
{
	int fd = open(s->name, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return;
	if (fstat(fd, &st) || !S_ISFIFO(st.st_mode) || begin_output(s)) {
		close(fd);
		return;
	}
	s->fd = fd;
	pcap_push(s, 0);
}

/* Between two packets nothing else would tell. */
static bool is_without_reader(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP));
}

static void pcap_tick(struct sink *sink, uint64_t now_ns)
{
	struct pcap_sink *s = (struct pcap_sink *)sink;

	s->waited = s->held = false;
	if (s->state == PCAP_NO_READER && s->is_fifo)
		reopen_fifo(s);
	else
		pcap_push(s, 0);
	if (s->with_reader && s->fd >= 0 && !s->is_file && is_without_reader(s->fd))
		reader_gone(s, -EPIPE);
	if (s->reopen)
		reopen_file(s);
	if (s->spool && is_old(s, now_ns))
		rotate(s);
	else if (s->spool && (!s->has_looked || s->kept > may_keep(s)))
		trim_files(s);
}

static void last_file(struct pcap_sink *s)
{
	if (s->good > s->file_head)
		(void)finish_file(s);
	else
		unlink(s->name); /* nothing but a header */
}

static void pcap_close_sink(struct sink *sink)
{
	struct pcap_sink *s = (struct pcap_sink *)sink;

	if (!s)
		return;
	pcap_push(s, PCAP_CLOSE_MS);
	lose_buffered(s);
	if (s->lost)
		log_warn("sink_pcap: %s: closed lost=%llu", s->name, (unsigned long long)s->lost);
	if (s->fd >= 0 && close(s->fd))
		log_error("sink_pcap: %s: cannot close: %s", s->name, strerror(errno));
	if (s->spool && s->file_head)
		last_file(s);
	spool_free(s->spool);
	buf_cleanse(&s->out);
	buf_fini(&s->comment);
	free(s->name);
	free(s);
}

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n > m && !strcmp(s + n - m, suffix);
}

static int start_writing(struct pcap_sink *s)
{
	int err;

	if (s->fd < 0)
		return 0; /* a FIFO that waits for its reader */
	err = begin_output(s);
	if (err)
		return err;
	pcap_push(s, 0);
	/* a disk that is full already is the user's to know now, not in the log of tomorrow */
	if (s->state != PCAP_FULL && s->fd >= 0)
		return 0;
	buf_reset(&s->out);
	s->head_len = 0;
	return -EIO;
}

static int pcap_open_sink(struct sink **out, const struct sink_conf *conf)
{
	struct pcap_sink *s = calloc(1, sizeof(*s));
	bool is_stdout = !strcmp(conf->target, "-");
	int err;

	if (!s)
		return -ENOMEM;
	s->sink.ops = &sink_pcap_ops;
	s->fd = -1;
	s->format = has_suffix(conf->target, ".pcap") ? &pcapfmt_classic : &pcapfmt_ng;
	buf_init(&s->out, PCAP_BUF_MAX);
	buf_init(&s->comment, PCAPFMT_COMMENT_MAX);
	s->name = strdup(is_stdout ? "standard output" : conf->target);
	err = -ENOMEM;
	if (!s->name)
		goto fail;
	sink_ignore_write_signals();
	s->is_stdout = is_stdout;
	s->with_reader = conf->with_reader;
	s->rotation = conf->rotation;
	if (!is_stdout && (s->rotation.bytes || s->rotation.seconds))
		err = open_rotated(s);
	else
		err = is_stdout ? adopt_stdout(s) : open_named(s);
	if (err)
		goto fail;
	err = start_writing(s);
	if (err)
		goto fail;
	*out = &s->sink;
	return 0;
fail:
	if (err == -ENOMEM)
		log_error("sink_pcap: %s: out of memory", conf->target);
	pcap_close_sink(&s->sink);
	return err;
}

const struct sink_ops sink_pcap_ops = {
	.name = "pcap",
	.open = pcap_open_sink,
	.packet = pcap_packet,
	.flush = pcap_flush,
	.tick = pcap_tick,
	.reopen = pcap_reopen,
	.close = pcap_close_sink,
};
