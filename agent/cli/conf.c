/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conf: a YAML file comes in, struct settings goes out, read by libcyaml with a schema made from
 * the table of settings. Opens that file and nothing else; knows no setting by name.
 */
#include "cli/conf.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/value.h"

/* The schema */

/* libcyaml's own booleans take any unknown word for true: not for a key named insecure. */
static const cyaml_strval_t booleans[] = {
	{"false", 0}, {"true", 1}, {"no", 0}, {"yes", 1}, {"off", 0}, {"on", 1},
};

static const cyaml_schema_value_t item = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, CYAML_UNLIMITED),
};

#define OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)

/* One field of each kind, as if struct said were all there is; make_schema() moves it to its place.
 */
static const cyaml_schema_field_t fields_of[KINDS] = {
	[KIND_WORD] = CYAML_FIELD_STRING_PTR("", OPTIONAL, struct said, word, 1, CYAML_UNLIMITED),
	[KIND_LIST] = CYAML_FIELD_SEQUENCE_COUNT("", OPTIONAL, struct said, words, n, &item, 0,
						 SINKS_MAX),
	[KIND_FLAG] =
		CYAML_FIELD_ENUM_PTR("", OPTIONAL | CYAML_FLAG_STRICT | CYAML_FLAG_CASE_INSENSITIVE,
				     struct said, flag, booleans, CYAML_ARRAY_LEN(booleans)),
};

struct schema {
	cyaml_schema_value_t top;
	cyaml_schema_field_t fields[SETTINGS_MAX]; /* the rest is all zero, which ends them */
};

static void make_schema(struct schema *s)
{
	cyaml_schema_field_t *f = s->fields;

	memset(s, 0, sizeof(*s));
	for (const struct setting *d = settings_table; d->name; d++) {
		if (d->place == PLACE_ARGV)
			continue;
		*f = fields_of[d->kind];
		f->key = d->name;
		f->data_offset += (uint32_t)d->offset;
		f->count_offset += (uint32_t)d->offset;
		f++;
	}
	s->top = (cyaml_schema_value_t){
		CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct settings, s->fields),
	};
}

/* What libcyaml says */

/* It tells an error in several lines: the first says what, the first "in …" says where. */
struct trouble {
	char what[160], where[160];
};

static void keep_line(char *out, size_t size, const char *text)
{
	snprintf(out, size, "%s", text + strspn(text, " "));
	out[strcspn(out, "\n")] = '\0';
}

static void on_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
	struct trouble *t = ctx;
	char line[160];
	va_list again;

	va_copy(again, args);
	log_vat(LOG_DEBUG, fmt, again);
	va_end(again);
	vsnprintf(line, sizeof(line), fmt, args);
	if (level != CYAML_LOG_ERROR || strstr(line, "Backtrace"))
		return;
	if (!strncmp(line, "  in ", 5) && !*t->where)
		keep_line(t->where, sizeof(t->where), line);
	else if (!*t->what)
		keep_line(t->what, sizeof(t->what), line);
}

static cyaml_config_t library_conf(struct trouble *t)
{
	return (cyaml_config_t){
		.log_fn = on_log,
		.log_ctx = t,
		.mem_fn = cyaml_mem,
		.log_level = CYAML_LOG_WARNING,
	};
}

/* The text after `prefix`, or NULL when it begins otherwise. */
static const char *after(const char *text, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(text, prefix, n) ? NULL : text + n;
}

/* Its words for what users get wrong most often → ours. */
static const char *reason(const char *what)
{
	const char *plain = after(what, "Load: ");

	if (strstr(what, "Expecting SEQUENCE"))
		return "a list is needed: [a, b]";
	if (strstr(what, "Invalid ENUM value"))
		return "yes or no is needed";
	if (strstr(what, "STRING length < 1"))
		return "has no value";
	return plain ? plain : what;
}

static int refuse(const char *name, const struct trouble *t, cyaml_err_t err)
{
	const char *what = reason(*t->what ? t->what : cyaml_strerror(err));
	const char *key = after(what, "Unexpected key: ");
	const char *field = after(t->where, "in mapping field");

	if (key) /* the place would be the mapping's start */
		return usage_error("%s: there is no setting named %s", name, key);
	if (field)
		return usage_error("%s: setting%s: %s", name, field, what);
	return usage_error("%s: %s%s%s", name, what, *t->where ? " " : "", t->where);
}

int conf_load(struct settings **out, const char *name)
{
	struct trouble t = {.what = "", .where = ""};
	cyaml_config_t conf = library_conf(&t);
	cyaml_data_t *data = NULL;
	struct schema schema;
	cyaml_err_t err;

	if (access(name, R_OK))
		return usage_error("%s: cannot read: %s", name, strerror(errno));
	make_schema(&schema);
	err = cyaml_load_file(name, &conf, &schema.top, &data, NULL);
	if (err != CYAML_OK)
		return refuse(name, &t, err);
	*out = data;
	return 0;
}

void conf_free(struct settings *file)
{
	struct trouble t = {.what = "", .where = ""};
	cyaml_config_t conf = library_conf(&t);
	struct schema schema;

	if (!file)
		return;
	make_schema(&schema);
	cyaml_free(&conf, &schema.top, file, 0);
}
