/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86code: a function's machine code in, where its paths first hand control on out. Registers are
 * followed only as far as the question "are these still the function's own arguments?" needs; what
 * is not understood is unknown. Never runs or changes the code; every loop is bounded.
 */
#include "sites/x86code.h"

#include <errno.h>

#if defined(__x86_64__)
#include <Zydis/Zydis.h>

#define STEPS_MAX 192 /* instructions, all paths together: foreign code may be one long loop */
#define PATHS_MAX 32  /* both sides of each branch that are still to be followed */
#define N_REGS    16
#define MARK      4 /* bytes of endbr64 as compilers write it; more would be prefixes */

struct path {
	size_t pos; /* of the next instruction, in code[] */
	struct x86code_value reg[N_REGS];
};

struct walk {
	const uint8_t *code;
	size_t len;
	uint64_t at;
	ZydisDecoder decoder;
	struct path todo[PATHS_MAX];
	size_t n_todo;
	struct x86code_exit *out;
	int n_out;
};

struct ins {
	ZydisDecodedInstruction is;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static void decoder_init(ZydisDecoder *d)
{
	ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static bool decode(const ZydisDecoder *d, const uint8_t *code, size_t len, struct ins *i)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, code, len, &i->is, i->op));
}

/* --- registers ----------------------------------------------------------------------------------
 */

/* Number of the general register that this one is (a part of), or -1. */
static int reg_number(ZydisRegister r)
{
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);

	return ZydisRegisterGetClass(whole) == ZYDIS_REGCLASS_GPR64 ? ZydisRegisterGetId(whole)
								    : -1;
}

static struct x86code_value reg_value(const struct path *p, ZydisRegister r)
{
	int n = reg_number(r);

	return n < 0 || n >= N_REGS ? (struct x86code_value){X86CODE_UNKNOWN, 0} : p->reg[n];
}

static void set_reg(struct path *p, ZydisRegister r, struct x86code_value v)
{
	int n = reg_number(r);

	if (n >= 0 && n < N_REGS && r != ZYDIS_REGISTER_RSP) /* that stays in the frame */
		p->reg[n] = v;
}

static bool is_reg(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

/* What a move of `bits` bits into a register of `to_bits` leaves there. */
static struct x86code_value moved_value(struct x86code_value v, unsigned bits, unsigned to_bits)
{
	if (to_bits < 32 || bits < 32) /* the rest of the register stays, or not all is taken */
		return (struct x86code_value){X86CODE_UNKNOWN, 0};
	if (bits == 64 || v.kind == X86CODE_ZERO || v.kind == X86CODE_ARG_INT)
		return v;
	if (v.kind == X86CODE_ARG)
		return (struct x86code_value){X86CODE_ARG_INT, v.arg};
	return (struct x86code_value){X86CODE_UNKNOWN, 0};
}

static struct x86code_value after_move(const struct path *p, const struct ins *i)
{
	const ZydisDecodedOperand *to = &i->op[0], *from = &i->op[1];

	if (is_reg(from))
		return moved_value(reg_value(p, from->reg.value), from->size, to->size);
	if (from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && !from->imm.value.u && to->size >= 32)
		return (struct x86code_value){X86CODE_ZERO, 0};
	return (struct x86code_value){X86CODE_UNKNOWN, 0};
}

static struct x86code_value after_lea(const struct path *p, const struct ins *i)
{
	const ZydisDecodedOperand *m = &i->op[1];
	struct x86code_value base = reg_value(p, m->mem.base);

	if (i->op[0].size == 64 && base.kind == X86CODE_FRAME &&
	    m->mem.index == ZYDIS_REGISTER_NONE)
		return base;
	return (struct x86code_value){X86CODE_UNKNOWN, 0};
}

static bool clears_register(const struct ins *i)
{
	return (i->is.mnemonic == ZYDIS_MNEMONIC_XOR || i->is.mnemonic == ZYDIS_MNEMONIC_SUB) &&
	       is_reg(&i->op[0]) && is_reg(&i->op[1]) && i->op[0].size >= 32 &&
	       i->op[0].reg.value == i->op[1].reg.value;
}

static void forget_written(struct path *p, const struct ins *i)
{
	static const struct x86code_value unknown = {X86CODE_UNKNOWN, 0};

	for (unsigned k = 0; k < i->is.operand_count; k++)
		if (is_reg(&i->op[k]) && i->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			set_reg(p, i->op[k].reg.value, unknown);
}

static void apply(struct path *p, const struct ins *i)
{
	struct x86code_value v;

	switch (i->is.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVSXD:
		v = after_move(p, i);
		break;
	case ZYDIS_MNEMONIC_LEA:
		v = after_lea(p, i);
		break;
	default:
		if (!clears_register(i)) {
			forget_written(p, i);
			return;
		}
		v = (struct x86code_value){X86CODE_ZERO, 0};
	}
	if (is_reg(&i->op[0]))
		set_reg(p, i->op[0].reg.value, v);
}

/* --- paths --------------------------------------------------------------------------------------
 */

static int add_exit(struct walk *w, const struct path *p, enum x86code_way way, uint64_t target)
{
	/* the argument registers in their order, by the numbers that instructions give them */
	static const uint8_t order[X86CODE_ARGS] = {7, 6, 2, 1, 8, 9};
	struct x86code_exit *e;

	if (w->n_out >= X86CODE_EXITS)
		return -E2BIG;
	e = &w->out[w->n_out++];
	*e = (struct x86code_exit){.way = way, .target = target};
	for (int i = 0; i < X86CODE_ARGS && way != X86CODE_END; i++)
		e->arg[i] = p->reg[order[i]];
	return 0;
}

static int add_path(struct walk *w, const struct path *p, size_t pos)
{
	if (w->n_todo >= PATHS_MAX)
		return -E2BIG;
	w->todo[w->n_todo] = *p;
	w->todo[w->n_todo++].pos = pos;
	return 0;
}

/* Where a direct call or jump goes. */
static bool target_of(const struct walk *w, const struct path *p, const struct ins *i, uint64_t *to)
{
	return i->is.operand_count && i->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
	       ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&i->is, &i->op[0], w->at + p->pos, to));
}

static int go_to(struct walk *w, const struct path *p, uint64_t to)
{
	if (to >= w->at && to - w->at < w->len)
		return add_path(w, p, to - w->at);
	return add_exit(w, p, X86CODE_JUMP, to);
}

/* One instruction that may change where the path goes. 1: it does not, the path goes on. */
static int leave(struct walk *w, struct path *p, const struct ins *i)
{
	uint64_t to = 0;
	int err;

	switch (i->is.meta.category) {
	case ZYDIS_CATEGORY_CALL:
		return target_of(w, p, i, &to) ? add_exit(w, p, X86CODE_CALL, to)
					       : add_exit(w, p, X86CODE_END, 0);
	case ZYDIS_CATEGORY_UNCOND_BR:
		return target_of(w, p, i, &to) ? go_to(w, p, to) : add_exit(w, p, X86CODE_END, 0);
	case ZYDIS_CATEGORY_COND_BR:
		if (!target_of(w, p, i, &to))
			return add_exit(w, p, X86CODE_END, 0);
		err = go_to(w, p, to);
		return err ? err : add_path(w, p, p->pos + i->is.length);
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSTEM:
		return add_exit(w, p, X86CODE_END, 0);
	default:
		return 1;
	}
}

/* Follow one path to its end or to where it parts. */
static int follow(struct walk *w, struct path *p, unsigned *steps)
{
	struct ins i;
	int r;

	while ((*steps)++ < STEPS_MAX) {
		if (p->pos >= w->len || !decode(&w->decoder, w->code + p->pos, w->len - p->pos, &i))
			return add_exit(w, p, X86CODE_END, 0);
		r = leave(w, p, &i);
		if (r <= 0)
			return r;
		apply(p, &i);
		p->pos += i.is.length;
	}
	return -E2BIG;
}

int x86code_exits(const uint8_t *code, size_t len, uint64_t at, struct x86code_exit out[])
{
	struct walk w = {.code = code, .len = len, .at = at, .out = out};
	struct path p = {.reg = {[7] = {X86CODE_ARG, 0},
				 [6] = {X86CODE_ARG, 1},
				 [2] = {X86CODE_ARG, 2},
				 [1] = {X86CODE_ARG, 3},
				 [8] = {X86CODE_ARG, 4},
				 [9] = {X86CODE_ARG, 5},
				 [4] = {X86CODE_FRAME, 0}}};
	unsigned steps = 0;
	int err = add_path(&w, &p, 0);

	decoder_init(&w.decoder);
	while (!err && w.n_todo) {
		p = w.todo[--w.n_todo];
		err = follow(&w, &p, &steps);
	}
	return err ? err : w.n_out;
}

/* 0: it stays in the function, or its place is known; else one more, or -E2BIG. */
static int add_target(uint64_t to, uint64_t out[], size_t n, size_t max)
{
	for (size_t k = 0; k < n; k++)
		if (out[k] == to)
			return 0;
	if (n == max)
		return -E2BIG;
	out[n] = to;
	return 1;
}

static bool is_transfer(const struct ins *i)
{
	return i->is.meta.category == ZYDIS_CATEGORY_CALL ||
	       i->is.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
	       i->is.meta.category == ZYDIS_CATEGORY_COND_BR;
}

int x86code_targets(const uint8_t *code, size_t len, uint64_t at, uint64_t out[], size_t max)
{
	struct walk w = {.code = code, .len = len, .at = at};
	struct path p = {.pos = 0};
	size_t n = 0;
	uint64_t to;
	struct ins i;
	int more;

	decoder_init(&w.decoder);
	for (; p.pos < len; p.pos += i.is.length) {
		if (!decode(&w.decoder, code + p.pos, len - p.pos, &i))
			return -EILSEQ;
		if (!is_transfer(&i))
			continue;
		if (!target_of(&w, &p, &i, &to))
			return -EILSEQ;
		if (to >= at && to - at < len)
			continue;
		more = add_target(to, out, n, max);
		if (more < 0)
			return more;
		n += (size_t)more;
	}
	return (int)n;
}

bool x86code_begins(const uint8_t *code, size_t len, uint64_t pos)
{
	ZydisDecodedInstruction i;
	ZydisDecoder d;
	size_t at = 0;

	decoder_init(&d);
	while (at < pos && at < len) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, code + at, len - at, &i)))
			return false;
		at += i.length;
	}
	return at == pos && at < len;
}

int x86code_mark(const uint8_t *code, size_t len)
{
	ZydisDecoder d;
	struct ins i;

	decoder_init(&d);
	if (!decode(&d, code, len, &i))
		return -EILSEQ;
	return i.is.mnemonic == ZYDIS_MNEMONIC_ENDBR64 && i.is.length == MARK ? MARK : 0;
}

#else

int x86code_exits(const uint8_t *code, size_t len, uint64_t at, struct x86code_exit out[])
{
	(void)code, (void)len, (void)at, (void)out;
	return -ENOTSUP;
}

int x86code_targets(const uint8_t *code, size_t len, uint64_t at, uint64_t out[], size_t max)
{
	(void)code, (void)len, (void)at, (void)out, (void)max;
	return -ENOTSUP;
}

bool x86code_begins(const uint8_t *code, size_t len, uint64_t pos)
{
	(void)code, (void)len, (void)pos;
	return false;
}

int x86code_mark(const uint8_t *code, size_t len)
{
	(void)code, (void)len;
	return -ENOTSUP;
}

#endif
