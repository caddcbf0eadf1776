/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bodycalls: calls each function of bodies.c with random arguments, at ever other depths of the
 * stack, and prints a number that depends on all results.
 * bodycalls CALLS
 */
#include "bodies.h"

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTHS 64
#define STORE  512

#define DECLARE(name) body body_##name;
BODIES(DECLARE)

static const struct {
	const char *name;
	body *call;
} all[] = {
#define LINE(name) {#name, body_##name},
	BODIES(LINE)};

static jmp_buf out_of_it;
static uint64_t seed = 88172645463325252u, sum;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* --- what the functions call --------------------------------------------------------------------
 */

long helper(struct object *o, unsigned char *buf, long num, size_t *out, long flags)
{
	o->sum += num * 3 + flags;
	if (out)
		*out = (size_t)(num & 63);
	if (buf)
		buf[num & 63] ^= (unsigned char)o->sum;
	return (o->sum & 3) - 1;
}

int step(struct object *o)
{
	return (int)(o->state = o->state * 1103515245 + 12345) >> 28 & 3;
}

void note(struct object *o, int line)
{
	o->sum = o->sum * 31 + line;
}

int tick(void)
{
	return (int)(rnd() >> 33 & 3);
}

void told(int line)
{
	sum = sum * 31 + (uint64_t)line;
}

void give_up(struct object *o)
{
	o->sum++;
	longjmp(out_of_it, 1);
}

void die_now(void)
{
	abort();
}

unsigned char *use(void *p)
{
	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}

/* --- calls --------------------------------------------------------------------------------------
 */

static unsigned char buffer[1024], store[STORE];

static void call_here(body *call)
{
	struct object o = {helper, (unsigned)rnd(), (unsigned)rnd(), (long)rnd(), store};
	long num = (long)(rnd() % 300) - 3, flags = (long)rnd(), got;
	size_t out = 0;

	got = call(&o, buffer, num, &out, flags);
	sum = sum * 1099511628211u + (uint64_t)got;
	sum = sum * 1099511628211u + out + (uint64_t)o.sum;
}

static __attribute__((noinline)) void call_at_depth(body *call, unsigned depth)
{
	unsigned char *room = __builtin_alloca(16 + depth * 16);

	use(room);
	if (!setjmp(out_of_it))
		call_here(call);
	use(room);
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 8;

	for (int i = 0; i < n; i++)
		for (size_t k = 0; k < sizeof(all) / sizeof(all[0]); k++) {
			for (size_t b = 0; b < sizeof(buffer); b++)
				buffer[b] = (unsigned char)rnd();
			call_at_depth(all[k].call, (unsigned)(i * 7 + (int)k) % DEPTHS);
			for (size_t b = 0; b < sizeof(buffer); b++)
				sum = sum * 31 + buffer[b];
		}
	printf("%016llx\n", (unsigned long long)sum);
	return 0;
}
