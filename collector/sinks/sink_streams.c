/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_streams: one line of JSON for each HTTP/2 stream that is shown as an HTTP/1.1 connection, so
 * that what an IDS says of the shown one leads back to the real one. Appends to a file of mode
 * 0600; one that was moved away is made anew. Gets no packets and no plaintext. Never waits: what
 * the file does not take is counted.
 */
#include "sink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "http/community_id.h"

#define LINES_MAX (1u << 20) /* memory for a disk that is full */
#define WARN_MS   30000      /* between two lines about the same trouble */

static COUNTER_DEFINE(c_lost, "sink_streams_lost",
		      "lines of --stream-log that could not be written");

struct streams_sink {
	struct sink sink;
	char *name;
	int fd;
	dev_t dev; /* of fd */
	ino_t ino;
	struct buf out; /* whole lines, but for the front of the first one */
	struct log_rate rate;
};

static int file_open(struct streams_sink *s)
{
	int fd = open(s->name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC,
		      0600);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int err = -errno;

		if (fd >= 0)
			close(fd);
		return err;
	}
	if (s->fd >= 0)
		close(s->fd);
	s->fd = fd;
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

/* Lines */

static json_t *address_of(const struct frame_flow_open *open, const uint8_t addr[16])
{
	char text[INET6_ADDRSTRLEN] = "";

	inet_ntop(open->family == 6 ? AF_INET6 : AF_INET, addr, text, sizeof(text));
	return json_string(text);
}

static json_t *time_of(uint64_t ts_ns)
{
	time_t s = (time_t)(ts_ns / NS_PER_S);
	char text[40];
	struct tm tm;
	size_t n;

	if (!gmtime_r(&s, &tm))
		return json_string("");
	n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, sizeof(text) - n, ".%06uZ", (unsigned)(ts_ns % NS_PER_S / 1000));
	return json_string(text);
}

static json_t *id_of(const struct frame_flow_open *open, uint16_t client_port, uint16_t server_port)
{
	char id[COMMUNITY_ID_LEN];

	return community_id(id, open, client_port, server_port) < 0 ? json_null() : json_string(id);
}

static json_t *word_of(struct span foreign)
{
	struct buf b;
	json_t *word;

	buf_init(&b, 4 * FRAME_TEXT_MAX + 1);
	sink_put_word(&b, foreign);
	word = b.bad ? json_null() : json_stringn((const char *)b.p, b.len);
	buf_fini(&b);
	return word;
}

/* Names as in Suricata's eve.json. NULL: out of memory. */
static json_t *line_of(const struct sink_stream *stream, uint64_t ts_ns)
{
	const struct frame_flow_open *o = stream->flow->open;

	return json_pack("{s:o, s:s, s:o, s:i, s:o, s:i, s:s, s:o, s:I, s:b, s:b, s:{s:i, s:i, "
			 "s:o}, s:o, s:I, "
			 "s:o}",
			 "timestamp", time_of(ts_ns), "event_type", "http1_stream", "src_ip",
			 address_of(o, o->client_addr), "src_port", stream->client_port, "dest_ip",
			 address_of(o, o->server_addr), "dest_port", stream->server_port, "proto",
			 "TCP", "community_id", id_of(o, stream->client_port, stream->server_port),
			 "stream_id", (json_int_t)stream->id, "pushed", (int)stream->pushed,
			 "serial", (int)stream->serial, "real", "src_port", o->client_port,
			 "dest_port", o->server_port, "community_id",
			 id_of(o, o->client_port, o->server_port), "host",
			 word_of(span_str(stream->flow->host)), "pid", (json_int_t)o->pid, "comm",
			 word_of(o->comm));
}

static void streams_stream(struct sink *sink, const struct sink_stream *stream, uint64_t ts_ns)
{
	struct streams_sink *s = (struct streams_sink *)sink;
	json_t *line = line_of(stream, ts_ns);
	char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;

	if (!text || buf_reserve(&s->out, len + 1) < 0) {
		s->out.bad = false;
		counter_inc(&c_lost);
	} else {
		wr_bytes(&s->out, text, len);
		wr_u8(&s->out, '\n');
	}
	free(text);
	json_decref(line);
}

static void complain(struct streams_sink *s, const char *what, int err)
{
	uint64_t held;

	if (log_rate_ok(&s->rate, WARN_MS, &held))
		log_warn("sink_streams: %s: %s: %s (%llu more lines held back)", s->name, what,
			 strerror(-err), (unsigned long long)held);
}

static void streams_flush(struct sink *sink)
{
	struct streams_sink *s = (struct streams_sink *)sink;
	int err;

	if (s->out.len == 0)
		return;
	buf_consume(&s->out, sink_write(s->fd, buf_span(&s->out), 0, &err));
	if (err)
		complain(s, "cannot write", err);
}

static void streams_reopen(struct sink *sink)
{
	struct streams_sink *s = (struct streams_sink *)sink;
	struct stat st;
	int err = 0;

	if (stat(s->name, &st) < 0 || st.st_dev != s->dev || st.st_ino != s->ino)
		err = file_open(s);
	if (err)
		complain(s, "cannot be made anew", err);
}

static void streams_tick(struct sink *sink, uint64_t now_ns)
{
	(void)now_ns;
	streams_reopen(sink);
}

static uint64_t count_lines(struct span text)
{
	uint64_t n = 0;

	for (size_t i = 0; i < text.len; i++)
		n += text.p[i] == '\n';
	return n;
}

static void streams_close(struct sink *sink)
{
	struct streams_sink *s = (struct streams_sink *)sink;

	if (!s)
		return;
	streams_flush(sink);
	counter_add(&c_lost, count_lines(buf_span(&s->out)));
	if (s->fd >= 0)
		close(s->fd);
	buf_fini(&s->out);
	free(s->name);
	free(s);
}

static int streams_open(struct sink **out, const struct sink_conf *conf)
{
	struct streams_sink *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		goto fail;
	s->fd = -1;
	s->sink.ops = &sink_streams_ops;
	buf_init(&s->out, LINES_MAX);
	s->name = strdup(conf->target);
	if (!s->name)
		goto fail;
	sink_ignore_write_signals();
	err = file_open(s);
	if (err)
		goto fail;
	*out = &s->sink;
	return 0;
fail:
	log_error("sink_streams: %s: cannot open: %s", conf->target, strerror(-err));
	streams_close(s ? &s->sink : NULL);
	return err;
}

const struct sink_ops sink_streams_ops = {
	.name = "streams",
	.open = streams_open,
	.stream = streams_stream,
	.flush = streams_flush,
	.tick = streams_tick,
	.reopen = streams_reopen,
	.close = streams_close,
};
