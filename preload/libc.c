/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libc: what C libraries do differently. Finding the real dlsym() without dlsym(): glibc has
 * dlvsym(); elsewhere (musl) the symbol tables of the loaded modules are read, in which nothing
 * moves once they are loaded.
 */
#include "preload.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

#ifdef __GLIBC__

any_fn libc_dlsym(void)
{
	static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
	any_fn fn = NULL;

	for (size_t i = 0; !fn && i < sizeof(versions) / sizeof(versions[0]); i++)
		fn = (any_fn)dlvsym(RTLD_NEXT, "dlsym", versions[i]);
	return fn;
}

#else

/* One module's, as the generic ABI describes them; the linker's hash table tells how many symbols
 * there are, or leads to the one that is asked for. */
struct tables {
	uintptr_t base;
	const ElfW(Sym) * symbols;
	const char *strings;
	const uint32_t *sysv, *gnu;
};

/* An address in the dynamic section: relocated by some C libraries, not by all. */
static const void *reach(const struct tables *t, ElfW(Addr) at)
{
	return (const void *)(at < t->base ? t->base + at : at);
}

static void read_dynamic(struct tables *t, const ElfW(Dyn) * d)
{
	for (; d->d_tag != DT_NULL; d++) {
		if (d->d_tag == DT_SYMTAB)
			t->symbols = reach(t, d->d_un.d_ptr);
		else if (d->d_tag == DT_STRTAB)
			t->strings = reach(t, d->d_un.d_ptr);
		else if (d->d_tag == DT_HASH)
			t->sysv = reach(t, d->d_un.d_ptr);
		else if (d->d_tag == DT_GNU_HASH)
			t->gnu = reach(t, d->d_un.d_ptr);
	}
}

static bool is_it(const struct tables *t, uint32_t at, const char *name)
{
	const ElfW(Sym) *s = &t->symbols[at];

	return s->st_shndx != SHN_UNDEF && s->st_value && !strcmp(t->strings + s->st_name, name);
}

/* DT_HASH: buckets and symbols are counted at its beginning. */
static uint32_t find_sysv(const struct tables *t, const char *name)
{
	for (uint32_t i = 1; i < t->sysv[1]; i++)
		if (is_it(t, i, name))
			return i;
	return 0;
}

/* DT_GNU_HASH: counts of buckets, of symbols not in it, of words of the filter before the buckets,
 * each of an address's size; a chain's last hash is odd. */
static uint32_t find_gnu(const struct tables *t, const char *name)
{
	const uint32_t n_buckets = t->gnu[0], first = t->gnu[1], n_filter = t->gnu[2];
	const uint32_t *buckets = t->gnu + 4 + n_filter * (sizeof(ElfW(Addr)) / 4);
	const uint32_t *chains = buckets + n_buckets;
	uint32_t h = 5381, i;

	for (const unsigned char *c = (const void *)name; *c; c++)
		h = h * 33 + *c;
	i = n_buckets ? buckets[h % n_buckets] : 0;
	for (; i >= first && i; i++) {
		if ((chains[i - first] | 1) == (h | 1) && is_it(t, i, name))
			return i;
		if (chains[i - first] & 1)
			break;
	}
	return 0;
}

static int find_dlsym(struct dl_phdr_info *info, size_t size, void *found)
{
	struct tables t = {.base = info->dlpi_addr};
	uint32_t at = 0;
	any_fn fn;

	(void)size;
	for (unsigned i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			read_dynamic(&t, (const void *)(t.base + info->dlpi_phdr[i].p_vaddr));
	if (t.symbols && t.strings && t.gnu)
		at = find_gnu(&t, "dlsym");
	else if (t.symbols && t.strings && t.sysv)
		at = find_sysv(&t, "dlsym");
	if (!at)
		return 0;
	fn = (any_fn)(t.base + t.symbols[at].st_value);
	if (fn == (any_fn)(void *)dlsym) /* ours, which stands before it */
		return 0;
	*(any_fn *)found = fn;
	return 1;
}

any_fn libc_dlsym(void)
{
	any_fn fn = NULL;

	(void)dl_iterate_phdr(find_dlsym, &fn);
	return fn;
}

#endif
