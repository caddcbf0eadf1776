/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report: the agents' answers and a look at /proc in, one table or one JSON array out. Changes
 * nothing on the host.
 */
#include "cli/report.h"

#include "cli/ask.h"
#include "base/log.h"
#include "coverage/control.h"
#include "coverage/coverage.h"
#include "coverage/family.h"
#include "process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEARCH_TOTAL (2ull << 30) /* bytes of programs that are read for one report: seconds */

/* --- reading answers ----------------------------------------------------------------------------
 */

static const char *string_at(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* A count: what is no number, or below zero, is none. */
static uint64_t count_at(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

static uint64_t flows_of(const json_t *row, const char *kind)
{
	return count_at(json_object_get(row, "flows"), kind);
}

static uint64_t bytes_of(const json_t *row, const char *kind)
{
	return count_at(json_object_get(row, "bytes"), kind);
}

static const char *const confidences[] = {"exact", "matched", "inferred"};
#define N_CONFIDENCES (sizeof(confidences) / sizeof(confidences[0]))

static uint64_t mirrored_flows(const json_t *row)
{
	uint64_t n = 0;

	for (size_t i = 0; i < N_CONFIDENCES; i++)
		n += flows_of(row, confidences[i]);
	return n;
}

static uint64_t mirrored_bytes(const json_t *row)
{
	uint64_t n = 0;

	for (size_t i = 0; i < N_CONFIDENCES; i++)
		n += bytes_of(row, confidences[i]);
	return n;
}

static uint64_t all_flows(const json_t *row)
{
	return mirrored_flows(row) + flows_of(row, "filtered") + flows_of(row, "standby") +
	       flows_of(row, "missed");
}

/* --- merging ------------------------------------------------------------------------------------
 */

static json_t *as_row(const json_t *o, const char *kind, json_t *agent)
{
	json_t *row = json_copy((json_t *)(uintptr_t)o);

	json_object_set_new(row, "kind", json_string(kind));
	json_object_set(row, "agent", agent ? agent : json_null());
	return row;
}

/* One key for one process, for as long as the host is up. */
static void process_key(const json_t *row, char out[48])
{
	snprintf(out, 48, "%" PRIu64 " %" PRIu64, count_at(row, "pid"), count_at(row, "start"));
}

/*
 * Of several agents' rows for a process those stay that mirror some of it; when none does, the one
 * that has most to say.
 */
static void put_process(json_t *by_key, const json_t *o, json_t *agent)
{
	char key[48];
	json_t *rows, *row, *first;

	if (!json_is_object(o) || !count_at(o, "pid"))
		return;
	process_key(o, key);
	row = as_row(o, "process", agent);
	rows = json_object_get(by_key, key);
	if (!rows) {
		json_object_set_new(by_key, key, json_pack("[o]", row));
		return;
	}
	first = json_array_get(rows, 0);
	if (mirrored_flows(first) && mirrored_flows(row))
		json_array_append(rows, row);
	else if (mirrored_flows(row) ||
		 (!mirrored_flows(first) && flows_of(row, "missed") > flows_of(first, "missed")))
		json_array_set(rows, 0, row);
	json_decref(row);
}

static void put_processes(json_t *by_key, const json_t *answer, json_t *agent)
{
	const json_t *list = json_object_get(answer, "processes");

	for (size_t i = 0; i < json_array_size(list); i++)
		put_process(by_key, json_array_get(list, i), agent);
}

/* An agent does not read a whole program to name what it mirrors. */
static void complete(json_t *rows, json_t *tls)
{
	for (size_t i = 0; i < json_array_size(rows); i++) {
		json_t *row = json_array_get(rows, i);

		if (!json_array_size(json_object_get(row, "tls")) && json_is_array(tls))
			json_object_set(row, "tls", tls);
	}
}

/* What an agent says about a process counts more than what can be seen without it. */
static void put_own(json_t *by_key, const json_t *own)
{
	const json_t *list = json_object_get(own, "processes"), *o;
	json_t *rows;
	char key[48];

	for (size_t i = 0; i < json_array_size(list); i++) {
		o = json_array_get(list, i);
		process_key(o, key);
		rows = json_object_get(by_key, key);
		if (rows)
			complete(rows, json_object_get(o, "tls"));
		else
			put_process(by_key, o, NULL);
	}
}

/* Each file once; one that any agent probes counts as probed. */
static void put_libraries(json_t *by_key, const json_t *answer, json_t *agent)
{
	const json_t *list = json_object_get(answer, "libraries"), *o;
	const json_t *known;
	char key[48];

	for (size_t i = 0; i < json_array_size(list); i++) {
		o = json_array_get(list, i);
		if (!json_is_object(o) || !*string_at(o, "path"))
			continue;
		snprintf(key, sizeof(key), "%" PRIu64 " %" PRIu64, count_at(o, "dev"),
			 count_at(o, "ino"));
		known = json_object_get(by_key, key);
		if (!known || (agent && !count_at(known, "functions")))
			json_object_set_new(by_key, key, as_row(o, "library", agent));
	}
}

static int compare_rows(const void *a, const void *b)
{
	const json_t *x = *(const json_t *const *)a, *y = *(const json_t *const *)b;
	uint64_t p = count_at(x, "pid"), q = count_at(y, "pid");

	if (p != q)
		return p < q ? -1 : 1;
	p = count_at(x, "agent");
	q = count_at(y, "agent");
	if (p != q)
		return p < q ? -1 : 1;
	return strcmp(string_at(x, "path"), string_at(y, "path"));
}

/* rows: borrowed; sorted ones are appended to out. */
static void append_sorted(json_t *out, const json_t *rows)
{
	size_t n = json_array_size(rows);
	json_t **v = calloc(n ? n : 1, sizeof(*v));

	for (size_t i = 0; v && i < n; i++)
		v[i] = json_array_get(rows, i);
	if (v)
		qsort(v, n, sizeof(*v), compare_rows);
	for (size_t i = 0; v && i < n; i++)
		json_array_append(out, v[i]);
	free(v);
}

json_t *report_merge(json_t *const answers[], size_t n, const json_t *own)
{
	json_t *processes = json_object(), *libraries = json_object(), *out = json_array();
	json_t *flat = json_array(), *agent, *v;
	const char *key;

	for (size_t i = 0; i < n; i++) {
		agent = json_object_get(json_object_get(answers[i], "agent"), "pid");
		put_processes(processes, answers[i], agent);
		put_libraries(libraries, answers[i], agent);
	}
	put_own(processes, own);
	put_libraries(libraries, own, NULL);
	json_object_foreach(processes, key, v) json_array_extend(flat, v);
	append_sorted(out, flat);
	json_array_clear(flat);
	json_object_foreach(libraries, key, v) json_array_append(flat, v);
	append_sorted(out, flat);
	json_decref(flat);
	json_decref(processes);
	json_decref(libraries);
	return out;
}

/* --- printing -----------------------------------------------------------------------------------
 */

#define COLUMNS_MAX 9
#define CELL_MAX    256

/* A table is kept until its columns' widths are known. */
struct table {
	size_t n_columns, n_rows;
	size_t width[COLUMNS_MAX];
	char *cells; /* n_rows × n_columns × CELL_MAX */
};

/* Names are whatever programs chose: a terminal gets nothing but printable ASCII of them. */
static void clean(char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s > '~')
			*s = '?';
}

static bool table_init(struct table *t, size_t n_columns, size_t max_rows)
{
	*t = (struct table){.n_columns = n_columns};
	t->cells = calloc(max_rows ? max_rows : 1, n_columns * CELL_MAX);
	return t->cells;
}

static char *cell(const struct table *t, size_t row, size_t column)
{
	return t->cells + (row * t->n_columns + column) * CELL_MAX;
}

/* The row that is being filled; table_end_row() ends it. */
static void put(struct table *t, size_t column, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void put(struct table *t, size_t column, const char *fmt, ...)
{
	char *c = cell(t, t->n_rows, column);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c, CELL_MAX, fmt, ap);
	va_end(ap);
	clean(c);
	if (strlen(c) > t->width[column])
		t->width[column] = strlen(c);
}

static void table_end_row(struct table *t)
{
	t->n_rows++;
}

static void table_print(FILE *out, const struct table *t)
{
	for (size_t r = 0; r < t->n_rows; r++)
		for (size_t c = 0; c < t->n_columns; c++) {
			bool last = c + 1 == t->n_columns;

			fprintf(out, "%-*s%s", last ? 0 : (int)t->width[c], cell(t, r, c),
				last ? "\n" : "  ");
		}
}

static void put_headings(struct table *t, const char *const words[])
{
	for (size_t i = 0; i < t->n_columns; i++)
		put(t, i, "%s", words[i]);
	table_end_row(t);
}

/* Strings of a list, with a comma between them; of paths only the names. */
static void join(char *out, size_t size, const json_t *list)
{
	size_t at = 0;

	out[0] = '\0';
	for (size_t i = 0; i < json_array_size(list) && at < size; i++) {
		const char *s = json_string_value(json_array_get(list, i));
		const char *slash = s ? strrchr(s, '/') : NULL;

		at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "",
				       slash ? slash + 1
				       : s   ? s
					     : "");
	}
	if (!out[0])
		snprintf(out, size, "-");
}

/* "exact", or, of several, "exact 3, matched 1". */
static void join_confidence(char *out, size_t size, const json_t *row)
{
	size_t at = 0, kinds = 0;

	snprintf(out, size, "-");
	for (size_t i = 0; i < N_CONFIDENCES; i++)
		kinds += flows_of(row, confidences[i]) != 0;
	for (size_t i = 0; i < N_CONFIDENCES && at < size; i++) {
		uint64_t n = flows_of(row, confidences[i]);

		if (n && kinds == 1)
			at += (size_t)snprintf(out + at, size - at, "%s", confidences[i]);
		else if (n)
			at += (size_t)snprintf(out + at, size - at, "%s%s %" PRIu64, at ? ", " : "",
					       confidences[i], n);
	}
}

static void put_row(struct table *t, const json_t *row, bool with_agent)
{
	const char *code = string_at(row, "reason");
	char words[CELL_MAX];
	size_t c = 0;

	put(t, c++, "%" PRIu64, count_at(row, "pid"));
	put(t, c++, "%s%s", string_at(row, "command"),
	    json_is_false(json_object_get(row, "alive")) ? " (gone)" : "");
	join(words, sizeof(words), json_object_get(row, "tls"));
	if (!strcmp(words, "-"))
		join(words, sizeof(words), json_object_get(row, "libraries"));
	put(t, c++, "%s", words);
	put(t, c++, "%s", mirrored_flows(row) ? string_at(row, "captured_by") : "none");
	if (with_agent)
		put(t, c++, "%" PRIu64, count_at(row, "agent"));
	if (all_flows(row) == mirrored_flows(row))
		put(t, c++, "%" PRIu64, mirrored_flows(row));
	else
		put(t, c++, "%" PRIu64 " of %" PRIu64, mirrored_flows(row), all_flows(row));
	put(t, c++, "%" PRIu64, mirrored_bytes(row));
	join_confidence(words, sizeof(words), row);
	put(t, c++, "%s", words);
	if (!strcmp(code, "captured"))
		put(t, c, "-");
	else
		put(t, c, "%s: %s", code, string_at(row, "words"));
	table_end_row(t);
}

static bool has_kind(const json_t *row, const char *kind)
{
	return !strcmp(string_at(row, "kind"), kind);
}

/* More than one agent tells about the same processes: then its id has a column. */
static bool has_agents(const json_t *rows)
{
	uint64_t first = 0;

	for (size_t i = 0; i < json_array_size(rows); i++) {
		uint64_t agent = count_at(json_array_get(rows, i), "agent");

		if (first && agent && agent != first)
			return true;
		first = first ? first : agent;
	}
	return false;
}

static void print_processes(FILE *out, const json_t *rows)
{
	static const char *const with[] = {"PID",   "COMMAND", "LIBRARY",    "CAPTURED BY", "AGENT",
					   "FLOWS", "BYTES",   "CONFIDENCE", "REASON"};
	static const char *const without[] = {"PID",   "COMMAND", "LIBRARY",    "CAPTURED BY",
					      "FLOWS", "BYTES",   "CONFIDENCE", "REASON"};
	bool with_agent = has_agents(rows);
	struct table t;

	if (!table_init(&t, with_agent ? 9 : 8, json_array_size(rows) + 1))
		return;
	put_headings(&t, with_agent ? with : without);
	for (size_t i = 0; i < json_array_size(rows); i++)
		if (has_kind(json_array_get(rows, i), "process"))
			put_row(&t, json_array_get(rows, i), with_agent);
	table_print(out, &t);
	free(t.cells);
}

/* Why it is not probed, or not as it was first. */
static void put_remark(struct table *t, const json_t *row)
{
	if (*string_at(row, "lowered_from"))
		put(t, 2, "%s instead of %s: connections carried more than was captured",
		    string_at(row, "tier"), string_at(row, "lowered_from"));
	else
		put(t, 2, "%s", *string_at(row, "why_not") ? string_at(row, "why_not") : "-");
}

static void print_libraries(FILE *out, const json_t *rows)
{
	static const char *const headings[] = {"LIBRARY FILE", "PROBED", "REMARK"};
	const json_t *row;
	struct table t;

	if (!table_init(&t, 3, json_array_size(rows) + 1))
		return;
	put_headings(&t, headings);
	for (size_t i = 0; i < json_array_size(rows); i++) {
		row = json_array_get(rows, i);
		if (!has_kind(row, "library"))
			continue;
		put(&t, 0, "%s", string_at(row, "path"));
		put(&t, 1, "%s", count_at(row, "functions") ? "yes" : "no");
		put_remark(&t, row);
		table_end_row(&t);
	}
	if (t.n_rows > 1) {
		fputc('\n', out);
		table_print(out, &t);
	}
	free(t.cells);
}

void report_print(FILE *out, const json_t *rows)
{
	print_processes(out, rows);
	print_libraries(out, rows);
}

/* --- the command --------------------------------------------------------------------------------
 */

static void learn_libraries(struct coverage *c, const json_t *answer)
{
	const json_t *list = json_object_get(answer, "libraries"), *o;
	struct capture_file found = {.functions = 0};

	for (size_t i = 0; i < json_array_size(list); i++) {
		o = json_array_get(list, i);
		found.functions = (int)json_integer_value(json_object_get(o, "functions"));
		coverage_file(c, count_at(o, "dev"), count_at(o, "ino"), string_at(o, "path"),
			      &found);
	}
}

/* This process maps TLS libraries too, and is nobody's concern. */
static void look_at_others(void *ctx, unsigned pid)
{
	if (pid != (unsigned)getpid())
		coverage_look(ctx, pid);
}

static json_t *look_around(json_t *const answers[], size_t n)
{
	const struct coverage_conf conf = {
		.has_agent = n > 0, .search_max = FAMILY_SEARCH_MAX, .search_total = SEARCH_TOTAL};
	struct coverage *c;
	json_t *own;

	if (coverage_new(&c, &conf))
		return NULL;
	for (size_t i = 0; i < n; i++)
		learn_libraries(c, answers[i]);
	(void)process_each(look_at_others, c);
	if (coverage_unsearched(c))
		log_warn("coverage: %" PRIu64 " programs were not searched for TLS code: too much "
			 "to read",
			 coverage_unsearched(c));
	own = coverage_json(c);
	coverage_free(c);
	return own;
}

static int print(const json_t *rows, bool as_json)
{
	if (as_json) {
		(void)json_dumpf(rows, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		report_print(stdout, rows);
	}
	if (!fflush(stdout) && !ferror(stdout))
		return 0;
	log_error("coverage: standard output: %s", strerror(errno));
	return 1;
}

int report_run(const char *dir, bool as_json)
{
	json_t *answers[ASK_AGENTS_MAX], *own, *rows;
	size_t n = ask_all(dir, "coverage", answers);
	bool has_agent = n;
	int status;

	if (!n)
		log_error("coverage: no agent is running (none answers in %s); what follows is "
			  "what /proc tells",
			  dir);
	own = look_around(answers, n);
	rows = report_merge(answers, n, own);
	status = rows ? print(rows, as_json) : 1;
	json_decref(rows);
	json_decref(own);
	while (n)
		json_decref(answers[--n]);
	return has_agent ? status : 1;
}
