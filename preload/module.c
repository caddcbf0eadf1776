/* SPDX-License-Identifier: Apache-2.0 */
/*
 * module: which library a module was linked with, found without the dynamic linker's lock. A thread
 * may hold that lock while it waits for another one's TLS call: in a constructor of what it loads,
 * or in a callback of dl_iterate_phdr(). Needs _dl_find_object() of glibc 2.35; where that is
 * missing, and for libraries that nobody has called yet, lib.c asks the linker.
 */
#include "preload.h"

#include <link.h>
#include <string.h>

/* As in dlfcn.h since glibc 2.35. */
struct found {
	unsigned long long flags;
	void *begin, *end;
	struct link_map *map;
	void *frame;
	unsigned long long reserved[7];
};
typedef int find_fn(void *address, struct found *out);

static find_fn *find;

void module_init(void)
{
	find = (find_fn *)lib_next("_dl_find_object");
}

static const struct link_map *module_at(const void *address)
{
	struct found out;

	return find && !find((void *)(uintptr_t)address, &out) ? out.map : NULL;
}

/* The module's string that is called so; *at: where to go on. NULL: no more. */
static const char *next_string(const struct link_map *m, ElfW(Sxword) tag, const ElfW(Dyn) * *at)
{
	uintptr_t strings = 0;

	for (const ElfW(Dyn) *d = m->l_ld; d && d->d_tag != DT_NULL; d++)
		if (d->d_tag == DT_STRTAB)
			strings = d->d_un.d_ptr;
	if (strings < m->l_addr) /* not relocated */
		strings += m->l_addr;
	for (const ElfW(Dyn) *d = *at ? *at + 1 : m->l_ld; strings && d && d->d_tag != DT_NULL;
	     d++) {
		if (d->d_tag != tag)
			continue;
		*at = d;
		return (const char *)strings + d->d_un.d_val;
	}
	return NULL;
}

/* -1: not among those that are known; -2: with none. */
static int linked_with(const struct family *f, const struct link_map *m)
{
	uint32_t n = atomic_load_explicit(&f->n_libs, memory_order_acquire);
	const ElfW(Dyn) *at = NULL, *none;
	const char *needed, *name;
	int result = -2;

	while ((needed = next_string(m, DT_NEEDED, &at))) {
		for (uint32_t i = 0; i < n; i++) {
			const struct link_map *lib =
				module_at((const void *)f->libs[i].fn[f->telling]);

			none = NULL;
			name = lib ? next_string(lib, DT_SONAME, &none) : NULL;
			if (name && !strcmp(name, needed))
				return (int)i;
		}
		if (!strncmp(needed, f->file, strlen(f->file)))
			result = -1;
	}
	return result;
}

int module_lib(const struct family *f, const void *caller)
{
	const struct link_map *m = module_at(caller);
	int at = m ? linked_with(f, m) : -1;

	/* Not linked itself: it means what all others mean, but when it has asked for one. */
	if (at == -2 && f->is_global && !atomic_load_explicit(&f->latest, memory_order_acquire))
		return 0;
	return at >= 0 ? at : -1;
}
