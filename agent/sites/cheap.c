/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cheap: one function's machine code in, a cheap entry and cheap exits of it out. Follows every
 * path from the first instruction, with the distance of the stack pointer; then looks for the entry
 * in front of the first branch, and for each return's exit behind the last place where ways meet.
 * Anything unclear on any path ends the search. Never runs the code; every loop is bounded.
 */
#include "sites/cheap.h"

#include <stdio.h>

#if defined(__x86_64__)
#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#define PATHS_MAX 256     /* branches still to be followed */
#define SP_MAX    1048576 /* bytes of one stack frame: numbers stay small */
#define CANARY    0x28    /* stack protector: fs:0x28 (System V ABI, x86-64, TLS block) */
#define CHECK_MAX 8       /* instructions before the call that ends a failed check */
#define N_REGS    16
#define NO_BP     (-1)

/* What is known of the byte at an offset. */
#define F_START  1u  /* an instruction begins */
#define F_INSIDE 2u  /* another byte of one */
#define F_TARGET 4u  /* a branch leads here */
#define F_RETURN 8u  /* a return */
#define F_WAY    16u /* a branch or call */
#define F_NEVER  32u /* a branch that is only taken to die: the stack protector's check */
#define F_RESULT 64u /* writes rax */

struct byte {
	uint8_t flags; /* F_… */
	uint8_t len;   /* of the instruction that begins here */
	int32_t sp;    /* before it: bytes below the first instruction's */
	int32_t bp;    /* the frame pointer's; NO_BP: not known */
};

/* The state in which a path reaches an instruction. */
struct path {
	size_t pos;
	int32_t sp, bp; /* as struct byte's */
	bool checks;    /* the instruction before compared the stack protector's word */
};

struct ins {
	ZydisDecodedInstruction is;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

struct walk {
	const uint8_t *code;
	size_t len;
	ZydisDecoder decoder;
	struct byte *at; /* one for each byte */
	struct path todo[PATHS_MAX];
	size_t n_todo;
	bool leaves;     /* a path ends in a jump to another function */
	const char *why; /* the first doubt; NULL: none */
};

static bool doubt(struct walk *w, const char *why)
{
	if (!w->why)
		w->why = why;
	return false;
}

static bool decode(const struct walk *w, size_t pos, struct ins *i)
{
	return ZYAN_SUCCESS(
		ZydisDecoderDecodeFull(&w->decoder, w->code + pos, w->len - pos, &i->is, i->op));
}

/* --- instructions -------------------------------------------------------------------------------
 */

/*
 * Those that kernels from 5.10 on emulate (arch/x86/kernel/uprobes.c: branch_setup_xol_ops(),
 * push_setup_xol_ops()); newer ones emulate some more.
 */
static bool is_cheap(const uint8_t *c, size_t len)
{
	if (len == 2 && c[0] == 0x41)
		return c[1] >= 0x50 && c[1] <= 0x57; /* push r8 … r15 */
	if (len == 1)
		return (c[0] >= 0x50 && c[0] <= 0x57) || c[0] == 0x90; /* push, nop */
	if (len == 2)
		return (c[0] & 0xf0) == 0x70 || c[0] == 0xeb; /* jcc, jmp */
	if (len == 5)
		return c[0] == 0xe9; /* jmp; of calls see harm.h */
	return len == 6 && c[0] == 0x0f && (c[1] & 0xf0) == 0x80;
}

/* Number of the general register that this one is (a part of), or -1. */
static int reg_number(ZydisRegister r)
{
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);

	return ZydisRegisterGetClass(whole) == ZYDIS_REGCLASS_GPR64 ? ZydisRegisterGetId(whole)
								    : -1;
}

/* General registers that it writes, one bit each; those named nowhere in it too. */
static unsigned written(const struct ins *i)
{
	unsigned set = 0;

	for (unsigned k = 0; k < i->is.operand_count; k++) {
		const ZydisDecodedOperand *op = &i->op[k];
		int n = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? reg_number(op->reg.value) : -1;

		if (n >= 0 && n < N_REGS && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			set |= 1u << n;
	}
	return set;
}
enum { RAX = 0, RSP = 4, RBP = 5 };

static bool is_reg(const ZydisDecodedOperand *op, ZydisRegister r)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value == r;
}

static bool is_branch(const struct ins *i)
{
	return i->is.meta.category == ZYDIS_CATEGORY_COND_BR ||
	       i->is.meta.category == ZYDIS_CATEGORY_UNCOND_BR;
}

/* The stack protector's comparison: sub, xor or cmp with the thread's word. */
static bool is_canary_check(const struct ins *i)
{
	if (i->is.mnemonic != ZYDIS_MNEMONIC_SUB && i->is.mnemonic != ZYDIS_MNEMONIC_XOR &&
	    i->is.mnemonic != ZYDIS_MNEMONIC_CMP)
		return false;
	for (int k = 0; k < 2; k++) {
		const ZydisDecodedOperand *op = &i->op[k];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.segment == ZYDIS_REGISTER_FS &&
		    op->mem.base == ZYDIS_REGISTER_NONE && op->mem.index == ZYDIS_REGISTER_NONE &&
		    op->mem.disp.value == CANARY)
			return true;
	}
	return false;
}

/* Whether it writes memory that is not the function's stack frame. */
static bool stores(const struct ins *i, bool has_bp)
{
	for (unsigned k = 0; k < i->is.operand_count; k++) {
		const ZydisDecodedOperand *op = &i->op[k];
		ZydisRegister base = op->mem.base;

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && base != ZYDIS_REGISTER_RSP &&
		    (base != ZYDIS_REGISTER_RBP || !has_bp))
			return true;
	}
	return false;
}

/* A call of a function that does not return, with at most some moves before it. */
static bool dies_at(const struct walk *w, size_t pos)
{
	struct ins i;

	for (int n = 0; n < CHECK_MAX && pos < w->len; n++, pos += i.is.length) {
		if (!decode(w, pos, &i))
			return false;
		if (i.is.meta.category == ZYDIS_CATEGORY_CALL)
			return true;
		if (i.is.mnemonic != ZYDIS_MNEMONIC_MOV)
			return false;
	}
	return false;
}

/* --- the stack pointer --------------------------------------------------------------------------
 */

static bool moves_by(struct walk *w, struct path *p, int64_t down)
{
	if (down > SP_MAX || down < -SP_MAX || p->sp + down > SP_MAX || p->sp + down < 0)
		return doubt(w, "its stack frame is not clear");
	p->sp += (int32_t)down;
	return true;
}

/* lea rsp, [rsp + n] or [rbp - n] */
static bool take_lea(struct walk *w, struct path *p, const struct ins *i)
{
	const ZydisDecodedOperandMem *m = &i->op[1].mem;
	bool from_bp = m->base == ZYDIS_REGISTER_RBP && p->bp != NO_BP;

	if (m->index != ZYDIS_REGISTER_NONE || (m->base != ZYDIS_REGISTER_RSP && !from_bp))
		return doubt(w, "its stack frame is not clear");
	if (from_bp)
		p->sp = p->bp;
	return moves_by(w, p, -m->disp.value);
}

static bool take_stack_write(struct walk *w, struct path *p, const struct ins *i)
{
	const ZydisDecodedOperand *from = &i->op[1];
	int64_t n = from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? from->imm.value.s : SP_MAX + 1;
	bool is_plain = is_reg(&i->op[0], ZYDIS_REGISTER_RSP);

	switch (i->is.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return i->is.operand_width == 64 ? moves_by(w, p, 8) : doubt(w, "an odd push");
	case ZYDIS_MNEMONIC_POP:
		return i->is.operand_width == 64 && !is_plain ? moves_by(w, p, -8)
							      : doubt(w, "an odd pop");
	case ZYDIS_MNEMONIC_SUB:
		return moves_by(w, p, is_plain ? n : SP_MAX + 1);
	case ZYDIS_MNEMONIC_ADD:
		return moves_by(w, p, is_plain ? -n : SP_MAX + 1);
	case ZYDIS_MNEMONIC_LEA:
		return is_plain ? take_lea(w, p, i) : doubt(w, "its stack frame is not clear");
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_LEAVE:
		if (p->bp == NO_BP || (i->is.mnemonic == ZYDIS_MNEMONIC_MOV &&
				       (!is_plain || !is_reg(from, ZYDIS_REGISTER_RBP))))
			return doubt(w, "its stack frame is not clear");
		p->sp = p->bp;
		return i->is.mnemonic == ZYDIS_MNEMONIC_MOV || moves_by(w, p, -8);
	default:
		return doubt(w, "its stack frame is not clear");
	}
}

static bool take_effects(struct walk *w, struct path *p, const struct ins *i, unsigned writes)
{
	bool sets_bp = i->is.mnemonic == ZYDIS_MNEMONIC_MOV &&
		       is_reg(&i->op[0], ZYDIS_REGISTER_RBP) &&
		       is_reg(&i->op[1], ZYDIS_REGISTER_RSP);

	if (writes & 1u << RSP && !take_stack_write(w, p, i))
		return false;
	if (writes & 1u << RBP)
		p->bp = sets_bp ? p->sp : NO_BP;
	return true;
}

/* --- paths --------------------------------------------------------------------------------------
 */

static bool add_path(struct walk *w, const struct path *from, size_t pos)
{
	struct path *p = &w->todo[w->n_todo];

	if (pos >= w->len)
		return doubt(w, "it goes on elsewhere");
	if (w->n_todo == PATHS_MAX)
		return doubt(w, "it has too many ways");
	*p = *from;
	p->pos = pos;
	p->checks = false;
	w->n_todo++;
	return true;
}

static bool target_of(const struct path *p, const struct ins *i, size_t *to)
{
	uint64_t target;

	if (!i->is.operand_count || i->op[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	    !ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&i->is, &i->op[0], p->pos, &target)))
		return false;
	*to = (size_t)target;
	return true;
}

/* To another function, as a call whose return is this one's: the stack is as it was at entry. */
static bool take_tail_jump(struct walk *w, const struct path *p, const struct ins *i)
{
	if (i->is.meta.category != ZYDIS_CATEGORY_UNCOND_BR || p->sp)
		return doubt(w, "it goes on elsewhere");
	w->leaves = true;
	return true;
}

/* A branch: its target becomes a path of its own. False: the search ends here. */
static bool take_branch(struct walk *w, const struct path *p, const struct ins *i)
{
	bool is_never = p->checks && i->is.mnemonic == ZYDIS_MNEMONIC_JNZ;
	size_t to;

	if (i->is.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
		return doubt(w, "it has an unusual instruction");
	if (!target_of(p, i, &to))
		return doubt(w, "it jumps to a computed place");
	if (to >= w->len)
		return take_tail_jump(w, p, i);
	if (is_never && dies_at(w, to)) {
		w->at[p->pos].flags |= F_NEVER;
		return true;
	}
	w->at[to].flags |= F_TARGET;
	return add_path(w, p, to);
}

/* 1: the path goes on behind the instruction, 0: it ends here, -1: so does the search. */
static int take_way(struct walk *w, const struct path *p, const struct ins *i)
{
	switch (i->is.meta.category) {
	case ZYDIS_CATEGORY_RET:
		w->at[p->pos].flags |= F_RETURN;
		if (p->sp || i->is.mnemonic != ZYDIS_MNEMONIC_RET ||
		    i->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return doubt(w, "its stack frame is not clear") - 1;
		return 0;
	case ZYDIS_CATEGORY_CALL:
		/* What lies behind a call that does not return is followed too: more ways than
		 * there are make the answer stricter. At the function's end there is none. */
		return p->pos + i->is.length < w->len;
	case ZYDIS_CATEGORY_COND_BR:
		return take_branch(w, p, i) ? 1 : -1;
	case ZYDIS_CATEGORY_UNCOND_BR:
		return take_branch(w, p, i) ? 0 : -1;
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
		return doubt(w, "it has an unusual instruction") - 1;
	default:
		return i->is.mnemonic == ZYDIS_MNEMONIC_UD2 ? 0 : 1;
	}
}

/* Whether the path may go on: 1; 0 when others were here already, in the same state. */
static int visit(struct walk *w, const struct path *p, struct ins *i)
{
	struct byte *b = &w->at[p->pos];

	if (b->flags & F_INSIDE)
		return doubt(w, "its instructions overlap") - 1;
	if (b->flags & F_START)
		return b->sp == p->sp && b->bp == p->bp
			       ? 0
			       : doubt(w, "its stack frame is not clear") - 1;
	if (!decode(w, p->pos, i))
		return doubt(w, "an instruction is not known") - 1;
	for (size_t k = 1; k < i->is.length; k++) {
		if (b[k].flags & (F_START | F_TARGET))
			return doubt(w, "its instructions overlap") - 1;
		b[k].flags |= F_INSIDE;
	}
	b->flags |= F_START;
	b->len = i->is.length;
	b->sp = p->sp;
	b->bp = p->bp;
	return 1;
}

/* Follow one path to its end, or to where others were before. */
static bool follow(struct walk *w, struct path p)
{
	struct ins i;
	int r;

	while (p.pos < w->len) {
		r = visit(w, &p, &i);
		if (r <= 0)
			return !r;
		unsigned writes = written(&i);
		bool is_way = is_branch(&i) || i.is.meta.category == ZYDIS_CATEGORY_CALL;

		w->at[p.pos].flags |= (is_way ? F_WAY : 0) | (writes & 1u << RAX ? F_RESULT : 0);
		r = take_way(w, &p, &i);
		if (r <= 0)
			return !r;
		/* A call leaves the stack as it was. */
		if (!is_way && !take_effects(w, &p, &i, writes))
			return false;
		p.checks = is_canary_check(&i);
		p.pos += i.is.length;
	}
	return doubt(w, "it goes on elsewhere");
}

static bool follow_all(struct walk *w)
{
	const struct path first = {.bp = NO_BP};
	bool ok = add_path(w, &first, 0);

	while (ok && w->n_todo) {
		struct path p = w->todo[--w->n_todo];

		ok = follow(w, p);
	}
	return ok;
}

/* --- places -------------------------------------------------------------------------------------
 */

static bool is_cheap_at(const struct walk *w, size_t pos)
{
	return is_cheap(w->code + pos, w->at[pos].len);
}

/* The first cheap instruction in front of which nothing branches and no argument is written. */
static bool find_entry(struct walk *w, unsigned args, struct cheap_place *out)
{
	static const uint8_t order[] = {7, 6, 2, 1, 8, 9}; /* System V ABI, x86-64, 3.2.3 */
	unsigned needed = 0;
	struct ins i;

	for (unsigned k = 0; k < args && k < sizeof(order); k++)
		needed |= 1u << order[k];
	for (size_t pos = 0; pos < w->len && w->at[pos].flags & F_START; pos += w->at[pos].len) {
		if (w->at[pos].flags & F_TARGET)
			return doubt(w, "a way leads back to its beginning");
		if (is_cheap_at(w, pos)) {
			*out = (struct cheap_place){(uint32_t)pos, (uint32_t)w->at[pos].sp};
			return true;
		}
		if (w->at[pos].flags & (F_WAY | F_RETURN))
			break;
		if (!decode(w, pos, &i) || written(&i) & needed)
			return doubt(w, "an argument is overwritten before a cheap instruction");
		if (stores(&i, w->at[pos].bp != NO_BP))
			return doubt(w, "memory is written before a cheap instruction");
	}
	return doubt(w, "no cheap instruction before the first branch");
}

/* Where the instruction before the one at pos begins, when it runs on into that one; else pos. */
static size_t before(const struct walk *w, size_t pos)
{
	for (size_t n = 1; n <= ZYDIS_MAX_INSTRUCTION_LENGTH && n <= pos; n++)
		if (w->at[pos - n].flags & F_START)
			return w->at[pos - n].len == n ? pos - n : pos;
	return pos;
}

/*
 * Backwards from a return, to the first cheap instruction that runs straight into it. It must lead
 * nowhere else: a call that passed it and came to another exit would be seen leaving twice.
 */
static bool find_exit(struct walk *w, size_t ret, size_t entry, struct cheap_place *out)
{
	size_t pos = ret, prev;

	while (!(w->at[pos].flags & F_TARGET)) {
		prev = before(w, pos);
		if (prev == pos || prev <= entry)
			break;
		pos = prev;
		if (is_cheap_at(w, pos) &&
		    (!(w->at[pos].flags & F_WAY) || w->at[pos].flags & F_NEVER)) {
			*out = (struct cheap_place){(uint32_t)pos, (uint32_t)w->at[pos].sp};
			return true;
		}
		if (w->at[pos].flags & (F_WAY | F_RETURN))
			break;
		if (w->at[pos].flags & F_RESULT)
			return doubt(w, "the result is written behind the last cheap instruction");
	}
	return doubt(w, "no cheap instruction that leads to its return only");
}

static bool find_exits(struct walk *w, struct cheap_places *out)
{
	out->n_exits = 0;
	for (size_t pos = 0; pos < w->len; pos++) {
		if (!(w->at[pos].flags & F_RETURN))
			continue;
		if (out->n_exits == CHEAP_EXITS)
			return doubt(w, "it has too many returns");
		if (!find_exit(w, pos, out->entry.at, &out->exit[out->n_exits]))
			return false;
		out->n_exits++;
	}
	return out->n_exits || doubt(w, "it does not return");
}

/* The first instruction, or the one behind endbr64, when it is cheap. */
static bool find_first(const uint8_t *code, size_t len, struct cheap_place *out)
{
	static const uint8_t mark[] = {0xf3, 0x0f, 0x1e, 0xfa}; /* endbr64 */
	size_t at = len > sizeof(mark) && !memcmp(code, mark, sizeof(mark)) ? sizeof(mark) : 0;
	ZydisDecodedInstruction i;
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, code + at, len - at, &i)) ||
	    !is_cheap(code + at, i.length))
		return false;
	*out = (struct cheap_place){.at = (uint32_t)at};
	return true;
}

static enum cheap_kind find(struct walk *w, unsigned args, struct cheap_places *out)
{
	if (!follow_all(w) || !find_entry(w, args, &out->entry))
		return CHEAP_NOTHING;
	if (!out->entry.sp)
		return CHEAP_RETURN;
	if (w->leaves) {
		doubt(w, "it ends in a jump to another function");
		return CHEAP_ENTRY;
	}
	return find_exits(w, out) ? CHEAP_PAIR : CHEAP_ENTRY;
}

static enum cheap_kind search(const uint8_t *code, size_t len, unsigned args,
			      struct cheap_places *out)
{
	struct walk *w = calloc(1, sizeof(*w));
	enum cheap_kind kind = CHEAP_NOTHING;

	out->why = "out of memory";
	if (w)
		w->at = calloc(len, sizeof(*w->at));
	if (w && w->at) {
		w->code = code;
		w->len = len;
		ZydisDecoderInit(&w->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
		kind = find(w, args, out);
		out->why = w->why;
	}
	if (w)
		free(w->at);
	free(w);
	return kind;
}

enum cheap_kind cheap_find(const uint8_t *code, size_t len, unsigned args, struct cheap_places *out)
{
	*out = (struct cheap_places){0};
	if (find_first(code, len && len < CHEAP_FIRST ? len : CHEAP_FIRST, &out->entry))
		return CHEAP_RETURN;
	if (len && len <= CHEAP_FUNCTION)
		return search(code, len, args, out);
	out->why = len ? "it is too long" : "its size is not known";
	return CHEAP_NOTHING;
}

bool cheap_is(const uint8_t *code)
{
	ZydisDecodedInstruction i;
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, code, CHEAP_INSTRUCTION, &i)) &&
	       is_cheap(code, i.length);
}

void cheap_describe(const uint8_t *code, size_t len, uint64_t at, char *out, size_t room)
{
	ZydisFormatter f;
	ZydisDecoder d;
	struct ins i;

	snprintf(out, room, "?");
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, code, len, &i.is, i.op)) ||
	    !ZYAN_SUCCESS(ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL)))
		return;
	(void)ZydisFormatterSetProperty(&f, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
					ZYDIS_PADDING_DISABLED);
	(void)ZydisFormatterFormatInstruction(&f, &i.is, i.op, i.is.operand_count_visible, out,
					      room, at, NULL);
}

#else

enum cheap_kind cheap_find(const uint8_t *code, size_t len, unsigned args, struct cheap_places *out)
{
	(void)code, (void)len, (void)args;
	*out = (struct cheap_places){.why = "not known for this machine"};
	return CHEAP_NOTHING;
}

bool cheap_is(const uint8_t *code)
{
	(void)code;
	return false;
}

void cheap_describe(const uint8_t *code, size_t len, uint64_t at, char *out, size_t room)
{
	(void)code, (void)len, (void)at;
	snprintf(out, room, "?");
}

#endif
