/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib: which library a wrapper stands for. One process may have several libssl: what counts is the
 * one that the calling code was linked with, so the wrapper's caller is looked up once a place and
 * remembered. And dlsym(), interposed: who asks a TLS library for a function that we wrap gets the
 * wrapper.
 */
#include "preload.h"

#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>

#define CALLER_BITS 48 /* of an address; the bits above hold 1 + the library's place */

typedef void *(*dlsym_fn)(void *handle, const char *name);
extern dlsym_fn shim_real_dlsym;
dlsym_fn shim_real_dlsym;

static struct family *const families[] = {&openssl_family, &crypto_family, &gnutls_family,
					  &nspr_family, &nss_family};
#define N_FAMILIES (sizeof(families) / sizeof(families[0]))

static dlsym_fn real_dlsym(void)
{
	if (!shim_real_dlsym)
		shim_real_dlsym = (dlsym_fn)libc_dlsym();
	return shim_real_dlsym;
}

any_fn lib_next(const char *name)
{
	dlsym_fn look = real_dlsym();

	return look ? (any_fn)look(RTLD_NEXT, name) : NULL;
}

/* NULL: none. What it is does not matter, as long as it is another one for each module. */
static const void *map_of(const void *address, const char **file)
{
	Dl_info info;

	if (!dladdr(address, &info))
		return NULL;
	if (file)
		*file = info.dli_fname;
	return info.dli_fbase;
}

static bool is_ours(any_fn f)
{
	return map_of((const void *)f, NULL) == map_of((const void *)&families, NULL);
}

/* --- the libraries of a family ------------------------------------------------------------------
 */

/* In place of functions that are not there: only a program that never asked could call them. */
static long absent(void)
{
	return -1;
}

/* It may not be unloaded while we have its addresses. */
static void fill(const struct family *f, struct lib *lib, const char *file)
{
	void *h = dlopen(file, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);

	for (unsigned i = 0; i < f->n; i++) {
		any_fn fn = h ? (any_fn)real_dlsym()(h, f->names[i]) : NULL;

		lib->fn[i] = fn ? fn : (any_fn)(void *)absent;
	}
}

/* Place of the library that has this function; -1: no room, or another thread is making one. */
static int place_of(struct family *f, any_fn fn)
{
	const char *file = NULL;
	const void *map = map_of((const void *)fn, &file);
	uint32_t n = atomic_load_explicit(&f->n_libs, memory_order_acquire);
	static atomic_flag busy = ATOMIC_FLAG_INIT;

	for (uint32_t i = 0; map && i < n; i++)
		if (f->libs[i].map == map)
			return (int)i;
	if (!map || !file || n == LIBS_MAX || atomic_flag_test_and_set(&busy))
		return -1;
	n = atomic_load_explicit(&f->n_libs, memory_order_acquire);
	fill(f, &f->libs[n], file);
	f->libs[n].map = map;
	atomic_store_explicit(&f->n_libs, n + 1, memory_order_release);
	atomic_flag_clear(&busy);
	return (int)n;
}

static int first_module(struct dl_phdr_info *info, size_t size, void *found)
{
	(void)size;
	*(const void **)found = info->dlpi_phdr;
	return 1;
}

/* The program itself, which each C library names first. */
static const void *program_map(void)
{
	static const void *map;
	const void *inside = NULL;

	if (!map && dl_iterate_phdr(first_module, &inside))
		map = map_of(inside, NULL);
	return map;
}

/* What the caller's own module was linked with; NULL: with none. */
static any_fn linked_with(const struct family *f, const void *caller)
{
	const char *name = f->names[f->telling], *file = NULL;
	const void *map = map_of(caller, &file);
	any_fn fn = NULL;
	void *h;

	if (!map || !file || !*file)
		return NULL;
	/* The program itself. dlopen() by its name would open its file, perhaps in a sandbox; and
	 * its handle finds us first. */
	if (map == program_map())
		return lib_next(name);
	h = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
	if (h) {
		fn = (any_fn)real_dlsym()(h, name);
		dlclose(h);
	}
	return fn && is_ours(fn) ? lib_next(name) : fn;
}

/* While another thread looks up the same library, this one does for itself: nobody waits. */
static struct lib *spare_of(const struct family *f, any_fn fn)
{
	static __thread struct lib spare __attribute__((tls_model("initial-exec")));
	const char *file = NULL;

	if (!map_of((const void *)fn, &file) || !file)
		return NULL;
	fill(f, &spare, file);
	return &spare;
}

static uint64_t hash_of(const void *caller)
{
	return (uintptr_t)caller * 0x9e3779b97f4a7c15ull;
}

static _Atomic uint64_t *row_of(struct family *f, const void *caller)
{
	return f->callers[hash_of(caller) >> 59];
}
_Static_assert(CALLER_ROWS == 1u << (64 - 59), "row_of() shifts");

/* Where there is room; two that took turns in one place would be looked up at each call. */
static struct lib *remember(struct family *f, const void *caller, int at)
{
	_Atomic uint64_t *row = row_of(f, caller);
	unsigned i = 0;

	while (i < 8 && atomic_load_explicit(&row[i], memory_order_relaxed))
		i++;
	if (i == 8)
		i = hash_of(caller) >> 56 & 7;
	atomic_store_explicit(&row[i], (uint64_t)(at + 1) << CALLER_BITS | (uintptr_t)caller,
			      memory_order_release);
	return &f->libs[at];
}

static struct lib *look_up(struct family *f, const void *caller)
{
	struct lib *spare;
	static struct lib none;
	uint32_t latest = atomic_load_explicit(&f->latest, memory_order_acquire);
	int at = module_lib(f, caller);
	any_fn fn = at < 0 ? linked_with(f, caller) : NULL;

	if (at >= 0)
		return remember(f, caller, at);
	if (!fn && latest) /* it has asked dlsym(), or is code made at run time */
		at = (int)latest - 1;
	if (!fn && !latest)
		fn = lib_next(f->names[f->telling]);
	if (fn)
		at = place_of(f, fn);
	if (fn && at < 0) {
		spare = spare_of(f, fn);
		if (spare)
			return spare;
	}
	if (at < 0 && atomic_load_explicit(&f->n_libs, memory_order_acquire))
		return &f->libs[0];
	if (at < 0) {
		for (unsigned i = 0; i < f->n; i++)
			none.fn[i] = (any_fn)(void *)absent;
		return &none;
	}
	return remember(f, caller, at);
}

struct lib *lib_of_caller(struct family *f, const void *caller)
{
	const _Atomic uint64_t *row = row_of(f, caller);

	for (unsigned i = 0; i < 8; i++) {
		uint64_t v = atomic_load_explicit(&row[i], memory_order_acquire);

		if (LIKELY((v & ((1ull << CALLER_BITS) - 1)) == (uintptr_t)caller && v))
			return &f->libs[(v >> CALLER_BITS) - 1];
		if (!v)
			break;
	}
	return look_up(f, caller);
}

/* --- dlsym --------------------------------------------------------------------------------------
 */

static int index_of(const struct family *f, const char *name)
{
	for (unsigned i = 0; i < f->n_wrapped; i++)
		if (!strcmp(f->names[i], name))
			return (int)i;
	return -1;
}

static bool may_be_ours(const char *name)
{
	return (name[0] == 'S' && name[1] == 'S' && name[2] == 'L') || !strncmp(name, "BIO", 3) ||
	       !strncmp(name, "gnutls", 6) || !strncmp(name, "PR_", 3);
}

#define NOT_THERE ((void *)-1)

/*
 * A wrapper goes by its caller, and a function that was asked for may be called from anywhere: so
 * it is wrapped only while no other library of the family can be meant. The function of a second
 * one is given as it is: not mirrored, but right.
 */
static bool is_only_one(const struct family *f, any_fn fn, const void *caller)
{
	const void *map = map_of((const void *)fn, NULL);
	any_fn linked = linked_with(f, caller), global = lib_next(f->names[f->telling]);
	uint32_t n = atomic_load_explicit(&f->n_libs, memory_order_acquire);

	for (uint32_t i = 0; i < n; i++)
		if (f->libs[i].map != map)
			return false;
	return map && (!linked || map_of((const void *)linked, NULL) == map) &&
	       (!global || map_of((const void *)global, NULL) == map);
}

/* Called by dlsym() below. The wrapper for what the handle has; NULL: not our business; NOT_THERE:
 * nobody has it but us, who only stand before others. */
void *shim_dlsym_wrapper(void *handle, const char *name, const void *caller);
__attribute__((visibility("hidden"), used)) void *shim_dlsym_wrapper(void *handle, const char *name,
								     const void *caller)
{
	any_fn fn;
	int i, at;

	if (!real_dlsym() || handle == RTLD_NEXT || !name || !may_be_ours(name))
		return NULL;
	for (size_t k = 0; k < N_FAMILIES; k++) {
		i = index_of(families[k], name);
		if (i < 0)
			continue;
		fn = (any_fn)real_dlsym()(handle, name);
		if (fn && is_ours(fn))
			return lib_next(name) ? NULL : NOT_THERE;
		if (!fn)
			return NULL; /* asked again, for dlerror() */
		if (!is_only_one(families[k], fn, caller))
			return NULL;
		at = place_of(families[k], fn);
		if (at < 0 || families[k]->libs[at].fn[i] != fn)
			return NULL;
		atomic_store_explicit(&families[k]->latest, (uint32_t)at + 1, memory_order_release);
		return (void *)families[k]->wrappers[i];
	}
	return NULL;
}

/*
 * RTLD_NEXT means: after the caller. So that the real dlsym() sees the caller, and not us, it is
 * jumped to.
 */
/* clang-format off */
#if defined(__x86_64__)
__asm__(".text\n"
	".globl dlsym\n"
	".type dlsym, @function\n"
	"dlsym:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	pushq %rdi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	pushq %rsi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	subq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	movq 24(%rsp), %rdx\n"
	"	call shim_dlsym_wrapper\n"
	"	addq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	popq %rsi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	popq %rdi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	testq %rax, %rax\n"
	"	jne 1f\n"
	"	jmp *shim_real_dlsym(%rip)\n"
	"1:	cmpq $-1, %rax\n"
	"	jne 2f\n"
	"	xorl %eax, %eax\n"
	"2:	ret\n"
	"	.cfi_endproc\n"
	".size dlsym, .-dlsym\n");
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl dlsym\n"
	".type dlsym, %function\n"
	"dlsym:\n"
	"	.cfi_startproc\n"
	"	hint #34\n" /* bti c */
	"	stp x29, x30, [sp, #-32]!\n"
	"	.cfi_def_cfa_offset 32\n"
	"	.cfi_offset x29, -32\n"
	"	.cfi_offset x30, -24\n"
	"	stp x0, x1, [sp, #16]\n"
	"	mov x2, x30\n"
	"	bl shim_dlsym_wrapper\n"
	"	mov x9, x0\n"
	"	ldp x0, x1, [sp, #16]\n"
	"	ldp x29, x30, [sp], #32\n"
	"	.cfi_def_cfa_offset 0\n"
	"	.cfi_restore x29\n"
	"	.cfi_restore x30\n"
	"	cbnz x9, 1f\n"
	"	adrp x16, shim_real_dlsym\n"
	"	ldr x16, [x16, #:lo12:shim_real_dlsym]\n"
	"	br x16\n"
	"1:	cmn x9, #1\n"
	"	csel x0, xzr, x9, eq\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size dlsym, .-dlsym\n");
#else
#error "dlsym() on this machine"
#endif
/* clang-format on */

/* --- the rest -----------------------------------------------------------------------------------
 */

static bool was_linked; /* with a TLS library, at load */

static int is_tls_library(struct dl_phdr_info *info, size_t size, void *found)
{
	(void)size;
	if (!info->dlpi_name || strstr(info->dlpi_name, "libsslcollector-preload") ||
	    !(strstr(info->dlpi_name, "libssl") || strstr(info->dlpi_name, "libgnutls") ||
	      strstr(info->dlpi_name, "libnspr")))
		return 0;
	*(bool *)found = true;
	return 1;
}

bool lib_is_used(void)
{
	bool is = was_linked;

	for (size_t k = 0; !is && k < N_FAMILIES; k++)
		is = families[k] != &crypto_family &&
		     atomic_load_explicit(&families[k]->n_libs, memory_order_relaxed);
	return is;
}

void lib_init(void)
{
	any_fn fn;

	(void)real_dlsym();
	module_init();
	dl_iterate_phdr(is_tls_library, &was_linked);
	/* What the program was linked with is known before its first call. */
	for (size_t k = 0; was_linked && k < N_FAMILIES; k++) {
		fn = lib_next(families[k]->names[families[k]->telling]);
		families[k]->is_global = fn && place_of(families[k], fn) == 0;
	}
}
