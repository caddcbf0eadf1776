/* SPDX-License-Identifier: Apache-2.0 */
/* bodies: functions of all the shapes that compilers make, see bodies.c; called by bodycalls.c. */
#ifndef BODIES_H
#define BODIES_H

#include <stddef.h>

struct object {
	long (*op)(struct object *, unsigned char *, long, size_t *, long);
	unsigned state, flags;
	long sum;
	unsigned char *store; /* 512 bytes */
};

typedef long body(struct object *o, unsigned char *buf, long num, size_t *out, long flags);

#define BODIES(X)                                                                                  \
	X(read_like)                                                                               \
	X(read_ex_like)                                                                            \
	X(write_like)                                                                              \
	X(early_returns)                                                                           \
	X(two_returns)                                                                             \
	X(guarded_int)                                                                             \
	X(guarded_bool)                                                                            \
	X(guarded_early)                                                                           \
	X(guarded_chain)                                                                           \
	X(guarded_loop)                                                                            \
	X(guarded_count)                                                                           \
	X(guarded_many_ways)                                                                       \
	X(guarded_death)                                                                           \
	X(guarded_again)                                                                           \
	X(guarded_pointer)                                                                         \
	X(guarded_void)                                                                            \
	X(tail_call)                                                                               \
	X(tail_call_sometimes)                                                                     \
	X(tail_call_by_pointer)                                                                    \
	X(tail_call_of_itself)                                                                     \
	X(call_by_pointer)                                                                         \
	X(loop_at_once)                                                                            \
	X(loop_with_calls)                                                                         \
	X(loop_to_the_entry)                                                                       \
	X(loop_of_bytes)                                                                           \
	X(allocates_on_the_stack)                                                                  \
	X(array_of_variable_size)                                                                  \
	X(large_frame)                                                                             \
	X(aligned_frame)                                                                           \
	X(guarded_frame)                                                                           \
	X(switch_table)                                                                            \
	X(switch_with_calls)                                                                       \
	X(computed_goto)                                                                           \
	X(inner_function)                                                                          \
	X(cold_part)                                                                               \
	X(many_saved_registers)                                                                    \
	X(recursion)                                                                               \
	X(mutual_recursion)                                                                        \
	X(varargs)                                                                                 \
	X(changes_arguments_at_once)                                                               \
	X(swaps_arguments)                                                                         \
	X(dies_perhaps)                                                                            \
	X(jumps_away)                                                                              \
	X(returns_twice)                                                                           \
	X(leaf)                                                                                    \
	X(identity)                                                                                \
	X(nothing)                                                                                 \
	X(floats)                                                                                  \
	X(two_words)                                                                               \
	X(thread_local_word)                                                                       \
	X(atomics)                                                                                 \
	X(copies)                                                                                  \
	X(clears)                                                                                  \
	X(cleanup_label)                                                                           \
	X(checks_first)                                                                            \
	X(result_from_memory)                                                                      \
	X(logs_first)                                                                              \
	X(many_branches)                                                                           \
	X(very_long)                                                                               \
	X(vectors)                                                                                 \
	X(six_arguments)

/* bodycalls.c */
long helper(struct object *o, unsigned char *buf, long num, size_t *out, long flags);
int step(struct object *o);
void note(struct object *o, int line);
void give_up(struct object *o) __attribute__((noreturn));
void die_now(void) __attribute__((noreturn));
unsigned char *use(void *p);
int tick(void);      /* like step(), of no object */
void told(int line); /* like note() */

#endif
