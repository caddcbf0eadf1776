/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status: an agent's buffers and losses → JSON, which the control socket gives; the answers of all
 * agents → text. Changes nothing.
 */
#include "cli/status.h"

#include "cli/ask.h"
#include "base/log.h"
#include "base/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#ifndef SSLC_VERSION
#define SSLC_VERSION "unknown"
#endif

#define SECOND_MS 1000

/* --- the agent's side ---------------------------------------------------------------------------
 */

static json_t *buffer_json(const struct capture_fill *b)
{
	return json_pack("{s:I, s:I, s:I}", "size", (json_int_t)b->size, "used",
			 (json_int_t)b->used, "high", (json_int_t)b->high);
}

static json_t *rings_json(const struct capture_stats *s)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < s->n_rings; i++)
		json_array_append_new(all, json_integer((json_int_t)s->each_ring[i]));
	return all;
}

/* Connections, bytes and events that people will miss. */
static bool speaks_of_loss(const char *name)
{
	static const char *const words[] = {"_lost",      "_shed",        "_evicted", "_missed",
					    "_unmatched", "_unexplained", "_paused",  "_detached"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(name, words[i]))
			return true;
	return false;
}

static void put_loss(void *ctx, const struct counter *c)
{
	if (speaks_of_loss(c->name) && counter_get(c))
		json_object_set_new(ctx, c->name, json_integer((json_int_t)counter_get(c)));
}

static void put_plaintext(void *ctx, const struct counter *c)
{
	if (!strcmp(c->name, "flow_bytes"))
		*(uint64_t *)ctx = counter_get(c);
}

static json_t *probes_json(const struct capture_stats *s)
{
	uint64_t bytes = 0;

	metrics_each(put_plaintext, &bytes);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "entries", (json_int_t)s->entries,
			 "exits", (json_int_t)s->exits, "entries_s", (json_int_t)s->entries_s,
			 "exits_s", (json_int_t)s->exits_s, "program_ns", (json_int_t)s->program_ns,
			 "plaintext", (json_int_t)bytes, "counted_ms", (json_int_t)s->counted_ms);
}

/* The collector's clock and the way to it; all 0 before they have been compared. */
struct clock_told {
	uint64_t trip_us, ahead_us, behind_us;
};

static void put_clock(void *ctx, const struct counter *c)
{
	struct clock_told *k = ctx;

	if (!strcmp(c->name, "tunnel_trip_us"))
		k->trip_us = counter_get(c);
	else if (!strcmp(c->name, "tunnel_clock_ahead_us"))
		k->ahead_us = counter_get(c);
	else if (!strcmp(c->name, "tunnel_clock_behind_us"))
		k->behind_us = counter_get(c);
}

static json_t *clock_json(void)
{
	struct clock_told k = {0};

	metrics_each(put_clock, &k);
	if (!k.trip_us && !k.ahead_us && !k.behind_us)
		return json_null();
	return json_pack("{s:I, s:I}", "ahead_us", (json_int_t)k.ahead_us - (json_int_t)k.behind_us,
			 "trip_us", (json_int_t)k.trip_us);
}

json_t *status_json(const struct capture_stats *stats)
{
	json_t *lost = json_object();

	if (lost)
		metrics_each(put_loss, lost);
	return json_pack("{s:{s:i, s:s}, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o}",
			 "agent", "pid", (int)getpid(), "version", SSLC_VERSION, "ring",
			 buffer_json(&stats->ring), "rings", rings_json(stats), "backlog",
			 buffer_json(&stats->queue), "events", (json_int_t)stats->events, "bytes",
			 (json_int_t)stats->ring_bytes, "naps", (json_int_t)stats->naps, "sleeps",
			 (json_int_t)stats->sleeps, "probes", probes_json(stats), "clock",
			 clock_json(), "lost", lost);
}

/* --- the command --------------------------------------------------------------------------------
 */

static uint64_t count_at(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

static double percent(uint64_t part, uint64_t of)
{
	return of ? 100.0 * (double)part / (double)of : 0;
}

static void print_buffer(FILE *out, const char *name, const json_t *b)
{
	uint64_t size = count_at(b, "size"), used = count_at(b, "used"), high = count_at(b, "high");

	fprintf(out,
		"  %-8s %" PRIu64 " KiB, in use %" PRIu64 " (%.1f %%), at most %" PRIu64
		" (%.1f %%)\n",
		name, size >> 10, used >> 10, percent(used, size), high >> 10, percent(high, size));
}

static void print_probes(FILE *out, const json_t *p)
{
	fprintf(out,
		"  probes   %" PRIu64 " entries (%" PRIu64 " a second), %" PRIu64 " exits (%" PRIu64
		") in %" PRIu64 " s, %" PRIu64 " ns each without the exception\n"
		"  told     %" PRIu64 " bytes of plaintext\n",
		count_at(p, "entries"), count_at(p, "entries_s"), count_at(p, "exits"),
		count_at(p, "exits_s"), count_at(p, "counted_ms") / 1000, count_at(p, "program_ns"),
		count_at(p, "plaintext"));
}

static void print_clock(FILE *out, const json_t *clock)
{
	json_int_t ahead_us = json_integer_value(json_object_get(clock, "ahead_us"));

	if (json_is_object(clock))
		fprintf(out, "  clock    the collector's is %.1f ms %s, round trip %.1f ms\n",
			(double)(ahead_us < 0 ? -ahead_us : ahead_us) / 1000,
			ahead_us < 0 ? "behind" : "ahead",
			(double)count_at(clock, "trip_us") / 1000);
}

static void print_losses(FILE *out, const json_t *lost)
{
	const json_t *v;
	const char *name;

	if (!json_object_size(lost))
		fputs("  lost     nothing\n", out);
	json_object_foreach((json_t *)lost, name, v) fprintf(
		out, "  lost     %s %" JSON_INTEGER_FORMAT "\n", name, json_integer_value(v));
}

/* All of them as one. */
static void print_rings(FILE *out, const json_t *a)
{
	size_t n = json_array_size(json_object_get(a, "rings"));
	char name[16] = "ring";

	if (n > 1)
		snprintf(name, sizeof(name), "%zu rings", n % 100);
	print_buffer(out, name, json_object_get(a, "ring"));
}

void status_print(FILE *out, json_t *const answers[], size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const json_t *a = answers[i];

		fprintf(out, "agent %" PRIu64 "\n", count_at(json_object_get(a, "agent"), "pid"));
		print_rings(out, a);
		print_buffer(out, "backlog", json_object_get(a, "backlog"));
		fprintf(out, "  events   %" PRIu64 ", %" PRIu64 " bytes of the ring\n",
			count_at(a, "events"), count_at(a, "bytes"));
		print_probes(out, json_object_get(a, "probes"));
		print_clock(out, json_object_get(a, "clock"));
		print_losses(out, json_object_get(a, "lost"));
	}
}

static void print_json(json_t *const answers[], size_t n)
{
	json_t *all = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append(all, answers[i]);
	(void)json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}

static void forget(json_t *answers[], size_t n)
{
	while (n)
		json_decref(answers[--n]);
}

/* Whether an agent has begun to count only now, because it was asked. */
static bool has_just_begun(json_t *const answers[], size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (count_at(json_object_get(answers[i], "probes"), "counted_ms") < SECOND_MS)
			return true;
	return false;
}

static size_t ask(const char *dir, json_t *answers[ASK_AGENTS_MAX])
{
	size_t n = ask_all(dir, "status", answers);

	if (!has_just_begun(answers, n))
		return n;
	forget(answers, n);
	usleep(SECOND_MS * 1000);
	return ask_all(dir, "status", answers);
}

int status_run(const char *dir, bool as_json)
{
	json_t *answers[ASK_AGENTS_MAX];
	size_t n = ask(dir, answers);
	bool has_agent = n;

	if (!n)
		log_error("status: no agent is running (none answers in %s)", dir);
	if (as_json)
		print_json(answers, n);
	else
		status_print(stdout, answers, n);
	forget(answers, n);
	if (fflush(stdout) || ferror(stdout)) {
		log_error("status: standard output: %s", strerror(errno));
		return 1;
	}
	return has_agent ? 0 : 1;
}
