/* SPDX-License-Identifier: Apache-2.0 */
/* pokes: against a plain list that is searched; numbers that wrap; memory. Includes pokes.c to
 * begin near the last number and to make malloc() fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <cmocka.h>

static bool malloc_fails;

static void *failing_malloc(size_t size)
{
	return malloc_fails ? NULL : malloc(size);
}
#define malloc failing_malloc
#include "sessions/pokes.c"
#undef malloc

#define N    200
#define WAIT 50

/* What pokes should do, as simple as can be. */
struct model {
	uint64_t due_ns[N]; /* 0: does not wait */
	uint64_t order[N];  /* of equal ones the earlier is first */
	uint64_t orders;
};

static struct poke who[N];

static int model_first(const struct model *m)
{
	int first = -1;

	for (int i = 0; i < N; i++)
		if (m->due_ns[i] && (first < 0 || m->order[i] < m->order[first]))
			first = i;
	return first;
}

static void step(struct pokes *p, struct model *m, uint64_t now, uint32_t random)
{
	int i = (int)(random / 8 % N), first;
	uint64_t wait;
	struct poke *due;

	switch (random % 8) {
	case 0:
		pokes_remove(p, &who[i]);
		m->due_ns[i] = 0;
		break;
	case 1:
	case 2:
		first = model_first(m);
		due = pokes_due(p, now, &wait);
		if (first < 0) {
			assert_null(due);
			assert_true(wait == UINT64_MAX);
		} else if (m->due_ns[first] > now) {
			assert_null(due);
			assert_int_equal(wait, m->due_ns[first] - now);
		} else {
			assert_ptr_equal(due, &who[first]);
			pokes_remove(p, due);
			m->due_ns[first] = 0;
		}
		break;
	default:
		pokes_add(p, &who[i], now + WAIT);
		m->due_ns[i] = now + WAIT;
		m->order[i] = m->orders++;
	}
	for (i = 0; i < N; i++)
		assert_int_equal(poke_waits(&who[i]), m->due_ns[i] != 0);
}

static void run_from(uint32_t number)
{
	uint64_t random = number + 1, now = 1;
	struct model m = {.orders = 0};
	struct pokes p;

	pokes_init(&p);
	p.from = p.to = number;
	for (int i = 0; i < 20000; i++) {
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		now += random >> 62; /* often the same moment again */
		step(&p, &m, now, (uint32_t)(random >> 32));
	}
	for (int i = 0; i < N; i++)
		pokes_remove(&p, &who[i]);
	pokes_fini(&p);
}

static void test_the_first_is_always_the_one_that_began_first(void **state)
{
	(void)state;
	for (uint32_t i = 1; i < 8; i++)
		run_from(i);
}

static void test_numbers_may_wrap(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		run_from(UINT32_MAX - i * 7);
}

static void test_a_large_ring_goes_when_nobody_waits(void **state)
{
	static struct poke many[SIZE_KEPT * 2 + 1];
	struct pokes p;
	uint64_t wait;

	(void)state;
	pokes_init(&p);
	for (size_t i = 0; i < SIZE_KEPT * 2 + 1; i++)
		pokes_add(&p, &many[i], i);
	assert_int_equal(pokes_memory(&p), SIZE_KEPT * 4 * sizeof(struct poke_place));
	for (size_t i = 0; i < SIZE_KEPT * 2 + 1; i++) {
		assert_ptr_equal(pokes_due(&p, UINT64_MAX, &wait), &many[i]);
		pokes_remove(&p, &many[i]);
	}
	assert_int_equal(pokes_memory(&p), 0);
	pokes_add(&p, &many[0], 7);
	assert_null(pokes_due(&p, 6, &wait));
	assert_int_equal(wait, 1);
	pokes_fini(&p);
}

/* One who begins again and again must not let the ring grow. */
static void test_holes_take_no_memory_for_long(void **state)
{
	struct poke one = {0};
	struct pokes p;

	(void)state;
	pokes_init(&p);
	for (uint64_t i = 0; i < 100000; i++)
		pokes_add(&p, &one, i);
	assert_int_equal(pokes_memory(&p), SIZE_FIRST * sizeof(struct poke_place));
	pokes_fini(&p);
}

static void test_without_memory_nobody_waits_and_those_who_do_stay(void **state)
{
	struct poke some[SIZE_FIRST + 1] = {{0}};
	struct pokes p;
	uint64_t wait;

	(void)state;
	pokes_init(&p);
	malloc_fails = true;
	pokes_add(&p, &some[0], 1);
	assert_false(poke_waits(&some[0]));
	malloc_fails = false;
	for (size_t i = 0; i < SIZE_FIRST; i++)
		pokes_add(&p, &some[i], 1);
	malloc_fails = true;
	pokes_add(&p, &some[SIZE_FIRST], 1);
	assert_false(poke_waits(&some[SIZE_FIRST]));
	malloc_fails = false;
	assert_ptr_equal(pokes_due(&p, 1, &wait), &some[0]);
	pokes_fini(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_first_is_always_the_one_that_began_first),
		cmocka_unit_test(test_numbers_may_wrap),
		cmocka_unit_test(test_a_large_ring_goes_when_nobody_waits),
		cmocka_unit_test(test_holes_take_no_memory_for_long),
		cmocka_unit_test(test_without_memory_nobody_waits_and_those_who_do_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
