/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gocode: a Go function's machine code in, offsets of its entry and return sites out. Never runs or
 * changes it.
 */
#include "sites/gocode.h"

#include <errno.h>

#define STACKGUARD 16 /* offset of g.stackguard0: in its place since Go 1.3 */

#if defined(__x86_64__)
#include <Zydis/Zydis.h>

#define CHECK_MAX 10 /* instructions up to the check's end; frames over 64 KiB take the most */

struct ins {
	ZydisDecodedInstruction is;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(const ZydisDecoder *d, const uint8_t *code, size_t len, struct ins *i)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, code, len, &i->is, i->op));
}

/* The operand that reads g.stackguard0; NULL: none. */
static const ZydisDecodedOperand *guard_of(const struct ins *i)
{
	for (int k = 0; i->is.mnemonic == ZYDIS_MNEMONIC_CMP && k < 2; k++)
		if (i->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    i->op[k].mem.disp.value == STACKGUARD &&
		    i->op[k].mem.index == ZYDIS_REGISTER_NONE)
			return &i->op[k];
	return NULL;
}

/* g was taken from where our kernel half looks for it: the word below the thread pointer. */
static bool is_usual_tls(const struct ins *i, int64_t constant)
{
	const ZydisDecodedOperand *m = &i->op[1];

	if (i->is.mnemonic != ZYDIS_MNEMONIC_MOV || m->type != ZYDIS_OPERAND_TYPE_MEMORY ||
	    m->mem.segment != ZYDIS_REGISTER_FS)
		return false;
	return m->mem.base == ZYDIS_REGISTER_NONE ? m->mem.disp.value == -8
						  : m->mem.disp.value + constant == -8;
}

/* What the check's instructions up to here have shown. */
struct check {
	bool is_tls;      /* g is in rcx, from thread-local storage */
	int64_t constant; /* last constant loaded: position-independent code loads the place first
			   */
	bool is_guarded;  /* the stack pointer was compared with g's bound */
};

static void take(struct check *c, const struct ins *i, enum gocode_abi *abi)
{
	const ZydisDecodedOperand *guard = guard_of(i);

	if (is_usual_tls(i, c->constant))
		c->is_tls = true;
	else if (i->is.mnemonic == ZYDIS_MNEMONIC_MOV &&
		 i->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		c->constant = i->op[1].imm.value.s;
	if (!guard)
		return;
	c->is_guarded = guard->mem.base == ZYDIS_REGISTER_R14 ||
			(c->is_tls && guard->mem.base == ZYDIS_REGISTER_RCX);
	*abi = guard->mem.base == ZYDIS_REGISTER_R14 ? GOCODE_REGISTERS : GOCODE_STACK;
}

int gocode_entry(const uint8_t *code, size_t len, enum gocode_abi *abi)
{
	struct check c = {0};
	ZydisDecoder d;
	size_t at = 0;
	struct ins i;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (int n = 0; n < CHECK_MAX && at < len; n++, at += i.is.length) {
		if (!decode(&d, code + at, len - at, &i))
			break;
		if (i.is.meta.category == ZYDIS_CATEGORY_CALL ||
		    i.is.meta.category == ZYDIS_CATEGORY_RET ||
		    i.is.meta.category == ZYDIS_CATEGORY_PUSH)
			break;
		if (c.is_guarded)
			return i.is.mnemonic == ZYDIS_MNEMONIC_JBE && at + i.is.length < len
				       ? (int)(at + i.is.length)
				       : -ENOEXEC;
		take(&c, &i, abi);
	}
	return -ENOEXEC;
}

int gocode_returns(const uint8_t *code, size_t len, uint32_t out[], size_t max)
{
	ZydisDecodedInstruction i;
	ZydisDecoder d;
	size_t n = 0;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (size_t at = 0; at < len; at += i.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, code + at, len - at, &i)))
			return -ENOEXEC;
		if (i.meta.category != ZYDIS_CATEGORY_RET)
			continue;
		if (n == max)
			return -E2BIG;
		out[n++] = (uint32_t)at;
	}
	return (int)n;
}

#elif defined(__aarch64__)
#include <string.h>

#define CHECK_MAX 12          /* instructions */
#define LDR_GUARD 0xf9400b90u /* ldr x16, [x28, #16] */
#define RET       0xd65f03c0u

static uint32_t word(const uint8_t *code, size_t at)
{
	uint32_t w;

	memcpy(&w, code + at, sizeof(w));
	return w;
}

static bool is_branch_ls(uint32_t w)
{
	return (w & 0xff00001fu) == 0x54000009u; /* b.ls */
}

int gocode_entry(const uint8_t *code, size_t len, enum gocode_abi *abi)
{
	bool is_guarded = false;

	(void)abi;
	for (size_t at = 0; at + 8 <= len && at < 4 * CHECK_MAX; at += 4) {
		uint32_t w = word(code, at);

		is_guarded |= w == LDR_GUARD;
		if (is_guarded && is_branch_ls(w))
			return (int)at + 4;
	}
	return -ENOEXEC;
}

int gocode_returns(const uint8_t *code, size_t len, uint32_t out[], size_t max)
{
	size_t n = 0;

	for (size_t at = 0; at + 4 <= len; at += 4) {
		if (word(code, at) != RET)
			continue;
		if (n == max)
			return -E2BIG;
		out[n++] = (uint32_t)at;
	}
	return (int)n;
}

#else
#error "only x86-64 and arm64 are known"
#endif
