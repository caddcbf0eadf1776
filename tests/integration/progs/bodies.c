/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bodies: functions whose code takes many shapes, compiled in many ways. Each may be given any
 * numbers; what they compute means nothing, but depends on all that they do.
 */
#include "bodies.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#define NEVER 0x5eafaced /* no random number is this one */
#define HARD  __attribute__((noinline))
#define BODY(name)                                                                                 \
	long body_##name(struct object *o, unsigned char *buf, long num, size_t *out, long flags); \
	HARD long body_##name(struct object *o, unsigned char *buf, long num, size_t *out,         \
			      long flags)
#define UNUSED (void)o, (void)buf, (void)num, (void)out, (void)flags

/* --- as TLS libraries are written ---------------------------------------------------------------
 */

static HARD long inner_read(struct object *o, unsigned char *buf, size_t num, size_t *got)
{
	if (o->flags & 1) {
		note(o, __LINE__);
		return -1;
	}
	*got = num < 7 ? num : 7;
	memset(buf, (int)o->state, *got);
	return step(o) ? 1 : 0;
}

BODY(read_like)
{
	size_t got;
	long ret;

	(void)out, (void)flags;
	if (num < 0) {
		note(o, __LINE__);
		return -1;
	}
	ret = inner_read(o, buf, (size_t)num, &got);
	if (ret > 0)
		ret = (int)got;
	return ret;
}

BODY(read_ex_like)
{
	long ret = inner_read(o, buf, (size_t)(num & 255), out);

	(void)flags;
	if (ret < 0)
		ret = 0;
	return ret;
}

BODY(write_like)
{
	size_t done = 0;

	(void)out;
	if (num < 0) {
		note(o, __LINE__);
		return -1;
	}
	if (flags & 2) {
		note(o, __LINE__);
		o->flags |= 4;
		return -2;
	}
	while (done < (size_t)num) {
		if (inner_read(o, buf + done % 64, (size_t)num - done, &done) <= 0)
			break;
		if (step(o) == 3)
			return (long)done;
		done++;
	}
	return done ? (long)done : -3;
}

BODY(cleanup_label)
{
	unsigned char copy[64];
	long ret = -5;

	if (!o->flags || num < 0)
		goto end;
	memcpy(copy, buf, sizeof(copy));
	if (helper(o, copy, num, out, flags) < 0) {
		ret = -6;
		goto end;
	}
	ret = copy[num & 31];
	memcpy(o->store, copy, sizeof(copy));
end:
	memset(copy, 0, sizeof(copy));
	use(copy);
	return ret;
}

BODY(checks_first)
{
	UNUSED;
	if (!o || !buf)
		return -22;
	if (o->flags & 8)
		return 0;
	return helper(o, buf, num, out, flags) + 1;
}

BODY(result_from_memory)
{
	size_t n = 0;
	long ret = helper(o, buf, num, &n, flags);

	(void)out;
	return ret > 0 ? (long)n : ret;
}

BODY(logs_first)
{
	note(o, __LINE__);
	return helper(o, buf, num, out, flags);
}

/* --- frames with a guard, and no register saved -------------------------------------------------
 */

BODY(guarded_int)
{
	size_t got = 0;
	int ret;

	(void)out;
	if ((int)num < 0) {
		told(__LINE__);
		return -1;
	}
	ret = (int)helper(o, buf, num, &got, flags);
	if (ret > 0)
		ret = (int)got;
	return ret;
}

BODY(guarded_bool)
{
	size_t got = 0;

	(void)out;
	if (num < 3)
		return 0;
	return helper(o, buf, num, &got, flags) > 0 && got > 5;
}

BODY(guarded_early)
{
	size_t got = 0;

	(void)out;
	if (!o || num == 7)
		return -22;
	if (tick() == 1)
		return -11;
	if (tick() == 2) {
		told(2);
		return -12;
	}
	use(&got);
	return (long)got + tick() + (flags == NEVER) + (buf == NULL);
}

BODY(guarded_chain)
{
	size_t got = 3;

	UNUSED;
	if (num < 10)
		told((int)*use(&got));
	else if (num < 50)
		told(11);
	else if (num < 200)
		told(12);
	if (tick())
		told(13);
	return (long)got;
}

BODY(guarded_loop)
{
	size_t got = 0;

	UNUSED;
	if (num < 0)
		return -1;
	while (tick())
		*use(&got) += 1;
	return (long)got;
}

BODY(guarded_count)
{
	size_t got = 0, left = (size_t)(num & 15);

	UNUSED;
	use(&left);
	if (flags & 1)
		told(14);
	do {
		*use(&got) ^= (unsigned char)tick();
	} while (left-- > 0);
	return (long)got;
}

BODY(guarded_many_ways)
{
	size_t got = 1;

	UNUSED;
	if (num & 1) {
		if (flags & 1)
			return *use(&got);
		told(15);
		return 1 + *use(&got);
	}
	if (flags & 2)
		told(16);
	if (tick() == 3)
		return -3;
	told(17);
	if (tick() == 1)
		return -1;
	return *use(&got) + tick();
}

BODY(guarded_death)
{
	size_t got = 0;

	UNUSED;
	if (flags == NEVER)
		die_now();
	if (num < 100)
		told(18);
	if (*use(&got) == 77)
		die_now();
	return tick();
}

BODY(guarded_again)
{
	size_t got = 0;

	if (num <= 0) {
		told(19);
		return *use(&got);
	}
	return (int)body_guarded_again(o, buf, num / 4 - 1, out ? &got : NULL, flags);
}

BODY(guarded_pointer)
{
	size_t got = 0;

	(void)out;
	if (num < 0)
		return -1;
	return (int)o->op(o, buf, num, &got, flags);
}

BODY(guarded_void)
{
	size_t got = 0;

	UNUSED;
	if (num & 1)
		told(20);
	use(&got);
	return 0;
}

/* --- ways out -----------------------------------------------------------------------------------
 */

BODY(early_returns)
{
	(void)out;
	if (num == 0)
		return 11;
	if (num < 0) {
		note(o, 1);
		return 12;
	}
	if (flags & 1) {
		note(o, 2);
		return (long)buf[0];
	}
	if (flags & 2) {
		o->sum += step(o);
		return o->sum;
	}
	if (num > 250)
		return helper(o, buf, 1, NULL, 2) * 5;
	note(o, 3);
	return 13;
}

BODY(two_returns)
{
	long ret = helper(o, buf, num, out, flags);

	if (ret > 0)
		return ret;
	note(o, 4);
	return -ret - 100;
}

BODY(tail_call)
{
	return helper(o, buf, num + 1, out, flags);
}

BODY(tail_call_sometimes)
{
	unsigned char mine[64];

	if (num & 1)
		return helper(o, buf, num, out, flags);
	memcpy(mine, buf, sizeof(mine));
	return helper(o, mine, num, out, flags) + mine[3];
}

BODY(tail_call_by_pointer)
{
	return o->op(o, buf, num - 1, out, flags);
}

BODY(tail_call_of_itself)
{
	if (num <= 0)
		return helper(o, buf, num, out, flags);
	note(o, (int)num);
	return body_tail_call_of_itself(o, buf, num / 2 - 1, out, flags + 1);
}

BODY(call_by_pointer)
{
	return o->op(o, buf, num, out, flags) * 2 + 1;
}

BODY(dies_perhaps)
{
	if (flags == NEVER)
		die_now();
	if (num < 0)
		note(o, 6);
	if (o->sum == NEVER + 1)
		die_now();
	return helper(o, buf, num, out, flags) | 64;
}

BODY(jumps_away)
{
	long ret = helper(o, buf, num, out, flags);

	if (ret > 0)
		give_up(o);
	note(o, 7);
	if (num & 4)
		give_up(o);
	return ret;
}

BODY(returns_twice)
{
	jmp_buf here;
	volatile int n = 0;

	if (setjmp(here) < (num & 3)) {
		n++;
		note(o, 8);
		longjmp(here, n);
	}
	return helper(o, buf, num, out, flags) + n;
}

/* --- loops --------------------------------------------------------------------------------------
 */

BODY(loop_at_once)
{
	long n = 0;

	UNUSED;
	while (num-- > 0)
		n = n * 3 + num;
	return n;
}

BODY(loop_with_calls)
{
	long n = 0;

	(void)buf, (void)out;
	while (step(o) && n < num)
		n += flags & 1 ? 2 : 1;
	return n;
}

BODY(loop_to_the_entry)
{
	UNUSED;
again:
	if (o->state & 1) {
		o->state = o->state >> 1;
		goto again;
	}
	return (long)o->state;
}

BODY(loop_of_bytes)
{
	unsigned char *end = buf + 200;

	UNUSED;
	do {
		if (*buf == (unsigned char)num)
			return end - buf;
	} while (++buf < end);
	return -1;
}

BODY(recursion)
{
	if (num <= 0)
		return helper(o, buf, num, out, flags);
	return body_recursion(o, buf, num / 3 - 1, out, flags ^ num) + num;
}

static long other(struct object *o, unsigned char *buf, long num, size_t *out, long flags);

BODY(mutual_recursion)
{
	if (num <= 0) {
		note(o, 9);
		return 1;
	}
	return other(o, buf, num / 2 - 1, out, flags) + flags;
}

static HARD long other(struct object *o, unsigned char *buf, long num, size_t *out, long flags)
{
	long r = body_mutual_recursion(o, buf, num - 1, out, flags);

	return r ^ step(o);
}

/* --- frames -------------------------------------------------------------------------------------
 */

BODY(allocates_on_the_stack)
{
	unsigned char *p = __builtin_alloca((size_t)(num & 255) + 1);

	p[0] = buf[1];
	use(p);
	return helper(o, buf, num, out, flags) + p[0];
}

BODY(array_of_variable_size)
{
	long n = 0;

	for (int i = 0; i < 3; i++) {
		unsigned char v[(num & 127) + 64];

		v[num & 31] = (unsigned char)flags;
		n += helper(o, v, num, out, i) + use(v)[num & 31];
	}
	(void)buf;
	return n;
}

BODY(large_frame)
{
	unsigned char much[20000];

	much[num & 1023] = buf[2];
	use(much);
	return helper(o, much, num, out, flags) + much[num & 1023];
}

BODY(aligned_frame)
{
	_Alignas(64) unsigned char v[128];

	memcpy(v, buf, sizeof(v));
	if ((uintptr_t)use(v) & 63)
		die_now();
	return helper(o, v, num, out, flags);
}

BODY(guarded_frame)
{
	char v[64];

	memcpy(v, buf, sizeof(v));
	use(v);
	if (num < 0)
		return -1;
	return helper(o, (unsigned char *)v, num, out, flags) + v[num & 63];
}

BODY(many_saved_registers)
{
	long a = num * 3, b = flags * 5, c = num ^ flags, d = o->sum, e = buf[9], f = num - 7, g;

	g = helper(o, buf, a & 63, out, b);
	a += g;
	b -= step(o);
	c ^= helper(o, buf, c & 31, out, d);
	d += step(o);
	note(o, (int)(a + b));
	e += helper(o, buf, f & 15, NULL, e);
	return a ^ b ^ c ^ d ^ e ^ f ^ g;
}

BODY(leaf)
{
	UNUSED;
	return 7;
}

BODY(identity)
{
	UNUSED;
	return num;
}

BODY(nothing)
{
	UNUSED;
	o->sum = 3;
	return 0;
}

/* --- arguments ----------------------------------------------------------------------------------
 */

long body_varargs(struct object *o, unsigned char *buf, long num, size_t *out, ...);

static long sum_up(struct object *o, va_list ap)
{
	return va_arg(ap, long) + step(o);
}

HARD long body_varargs(struct object *o, unsigned char *buf, long num, size_t *out, ...)
{
	long ret;
	va_list ap;

	va_start(ap, out);
	ret = sum_up(o, ap);
	va_end(ap);
	return helper(o, buf, num, out, ret);
}

BODY(changes_arguments_at_once)
{
	num = num * 3 + flags;
	flags ^= num;
	if (num & 1)
		buf += 5;
	out = NULL;
	return helper(o, buf, num & 255, out, flags) + num;
}

BODY(swaps_arguments)
{
	(void)out;
	return helper(o, o->store, flags & 63, NULL, num + buf[0]);
}

BODY(six_arguments)
{
	unsigned char v[64] = {(unsigned char)num};
	long a = helper(o, v, num, out, flags);

	return a + helper(o, buf, a, out, (long)v[0]) + (long)*out;
}

/* --- switches -----------------------------------------------------------------------------------
 */

BODY(switch_table)
{
	UNUSED;
	switch (num % 12) {
	case 0:
		return flags * 3;
	case 1:
		return flags + buf[1];
	case 2:
		return flags - 9;
	case 3:
		return o->sum;
	case 4:
		return ~flags;
	case 5:
		return flags << 2;
	case 6:
		return flags >> 3;
	case 7:
		o->sum = 4;
		return 1;
	case 8:
		return buf[8];
	case 9:
		return flags ^ 0x55;
	case 10:
		return flags / 3;
	default:
		return -1;
	}
}

BODY(switch_with_calls)
{
	long r = 1;

	switch (o->flags % 7) {
	case 0:
		note(o, 20);
		break;
	case 1:
		r = helper(o, buf, num, out, flags);
		break;
	case 2:
		r = step(o);
		/* fall through */
	case 3:
		note(o, 21);
		r += 2;
		break;
	case 4:
		return -4;
	case 5:
		note(o, (int)num);
		r = step(o) + helper(o, buf, 1, out, 2);
		break;
	default:
		r = num;
	}
	return r + step(o);
}

BODY(computed_goto)
{
	static const void *const to[] = {&&one, &&two, &&three};
	long r = 0;

	(void)buf, (void)out;
	goto *to[o->flags % 3];
one:
	r += step(o);
two:
	r += 2;
	note(o, 30);
three:
	return r + num + flags;
}

BODY(inner_function)
{
#ifdef __clang__
	return helper(o, buf, num, out, flags) + num;
#else
	long here = num;
	auto HARD long add(long n);

	long add(long n)
	{
		here += n;
		return here > 0 ? step(o) : helper(o, buf, n, out, flags);
	}

	return add(1) + add(flags & 15) + here;
#endif
}

static __attribute__((cold, noinline)) long trouble(struct object *o, long n)
{
	note(o, 40);
	return n - step(o);
}

BODY(cold_part)
{
	long r;

	if (__builtin_expect(num < 0, 0)) {
		r = trouble(o, num);
		r += trouble(o, flags);
		note(o, 41);
		return r * 2;
	}
	r = helper(o, buf, num, out, flags);
	if (__builtin_expect(r < 0, 0)) {
		r = trouble(o, r) + trouble(o, num);
		if (r & 1)
			return trouble(o, 5);
		note(o, 42);
	}
	return r;
}

/* --- odd instructions ---------------------------------------------------------------------------
 */

BODY(floats)
{
	double d = (double)num * 1.5 + (double)(flags & 255);

	(void)out, (void)buf;
	if (d > 100.0)
		note(o, 50);
	return (long)(d / 3.0);
}

BODY(two_words)
{
	unsigned __int128 p = (unsigned __int128)(uint64_t)flags * (uint64_t)num;

	(void)out, (void)buf, (void)o;
	return (long)(p >> 64) ^ (long)p;
}

static _Thread_local long words;

BODY(thread_local_word)
{
	words = words * 3 + num;
	if (words & 1)
		note(o, 51);
	(void)buf, (void)out;
	return words ^ flags;
}

BODY(atomics)
{
	long was = __atomic_fetch_add(&o->sum, num, __ATOMIC_SEQ_CST), want = was + num;
	unsigned a = 0, b, c = 0, d;

	(void)buf, (void)out;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	__atomic_compare_exchange_n(&o->sum, &want, flags, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	return was + (b == d);
}

BODY(copies)
{
	(void)out, (void)flags;
	memcpy(o->store, buf, (size_t)(num & 127));
	__asm__ volatile("rep movsb" : : "D"(o->store + 200), "S"(buf), "c"(num & 31) : "memory");
	return o->store[num & 63];
}

BODY(clears)
{
	unsigned char v[256] = {0};

	v[num & 255] = buf[3];
	return helper(o, v, num, out, flags) + v[7] + use(v)[9];
}

BODY(vectors)
{
	uint32_t v[64], n = 0;

	for (int i = 0; i < 64; i++)
		v[i] = (uint32_t)buf[i] * (uint32_t)num;
	for (int i = 0; i < 64; i++)
		n += v[i] ^ (uint32_t)i;
	(void)o, (void)out;
	return (long)n + flags;
}

/* --- much code ----------------------------------------------------------------------------------
 */

#define IF(n)                                                                                      \
	if (buf[n] & 1)                                                                            \
		r += step(o);                                                                      \
	else                                                                                       \
		r ^= (n);
#define IF8(n) IF(n) IF(n + 1) IF(n + 2) IF(n + 3) IF(n + 4) IF(n + 5) IF(n + 6) IF(n + 7)

BODY(many_branches)
{
	long r = helper(o, buf, num, out, flags);

	IF8(0) IF8(8) return r;
}

BODY(very_long)
{
	long r = helper(o, buf, num, out, flags);

	IF8(0)
	IF8(8)
	IF8(16)
	IF8(24)
	IF8(32)
	IF8(40)
	IF8(48)
	IF8(56) IF8(64) IF8(72) IF8(80) IF8(88) IF8(96) IF8(104) IF8(112) IF8(120) IF8(128) IF8(136)
		IF8(144) IF8(152) return r;
}
