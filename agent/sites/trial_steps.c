/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial_steps: traps in, the state in front of the trapped instruction out. Calls that leave the
 * library run freely: a breakpoint at their return brings the steps back. Instructions under a
 * breakpoint are emulated, so the breakpoint stays.
 */
#include "sites/trial_steps.h"

#include <errno.h>

#if defined(__x86_64__)

#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define TRAP_FLAG 0x100
#define INT3      0xcc
#define TEXT_MAX  (8u << 20)

#define WATCHED 32 /* functions */
#define DEPTH   16

enum mode { IDLE, WAITING, INSIDE, OUTSIDE };

/* What is known of a byte of code. */
#define B_HIT   1u /* a breakpoint of the caller's */
#define B_ENTER 2u /* a watched function */
#define B_LEAVE 4u /* it returns here */

static struct {
	struct trial_watcher w;
	uint64_t text, len, offset; /* address, bytes, file offset */
	uint8_t *code;              /* as it is in the file */
	int copy;                   /* memfd: what runs */
	volatile enum mode mode;
	uint64_t back, back_sp; /* OUTSIDE: where it returns to */
	uint64_t stop_sp;       /* stack pointer at begin: above it the call has returned */
	unsigned n_breaks, n_watched;
	uint8_t *flags;     /* for each byte of text: B_… */
	uint16_t *which;    /* number of its breakpoint */
	uint64_t over;      /* the instruction under a breakpoint that is stepped over; 0: none */
	uint64_t sp[DEPTH]; /* of watched functions: where their return address is */
	unsigned depth;
} m = {.copy = -1};

/* --- the library's code -------------------------------------------------------------------------
 */

static void put(uint64_t at, uint8_t byte)
{
	ssize_t n = pwrite(m.copy, &byte, 1, (off_t)at);

	if (n != 1)
		_exit(3);
}

static int find_text(struct dl_phdr_info *i, size_t size, void *inside)
{
	uint64_t addr = (uintptr_t)inside;

	(void)size;
	for (int k = 0; k < i->dlpi_phnum; k++) {
		const ElfW(Phdr) *p = &i->dlpi_phdr[k];
		uint64_t from = i->dlpi_addr + p->p_vaddr;

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X) || addr < from ||
		    addr - from >= p->p_memsz)
			continue;
		m.text = from;
		m.len = p->p_filesz;
		m.offset = p->p_offset;
		return 1;
	}
	return 0;
}

/* Whole pages, as the loader maps them. */
static int replace_text(int fd)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), before = m.text % page;
	uint64_t from = m.text - before, len = (before + m.len + page - 1) / page * page;
	void *got;

	m.text = from;
	m.offset -= before;
	m.len += before;
	m.copy = memfd_create("text", MFD_CLOEXEC);
	m.code = calloc(1, len);
	m.flags = calloc(1, m.len);
	m.which = calloc(m.len, sizeof(*m.which));
	if (m.copy < 0 || !m.code || !m.which || !m.flags)
		return -ENOMEM;
	if (pread(fd, m.code, m.len, (off_t)m.offset) != (ssize_t)m.len)
		return -EIO;
	if (pwrite(m.copy, m.code, len, 0) != (ssize_t)len)
		return -errno;
	got = mmap((void *)from, len, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, m.copy, 0);
	return got == MAP_FAILED ? -errno : 0;
}

static bool is_inside(uint64_t address)
{
	return address >= m.text && address - m.text < m.len;
}

/* --- instructions that are emulated -------------------------------------------------------------
 */

unsigned trial_steps_cheap(const uint8_t *c)
{
	if (c[0] == 0x41 && c[1] >= 0x50 && c[1] <= 0x57)
		return 2; /* push r8 … r15 */
	if ((c[0] >= 0x50 && c[0] <= 0x57) || c[0] == 0x90)
		return 1; /* push, nop */
	if ((c[0] & 0xf0) == 0x70 || c[0] == 0xeb)
		return 2; /* jcc, jmp */
	if (c[0] == 0xe9)
		return 5;
	return c[0] == 0x0f && (c[1] & 0xf0) == 0x80 ? 6 : 0;
}

/* Intel SDM, volume 1, appendix B: the condition in an opcode's lower four bits. */
static bool holds(unsigned condition, uint64_t flags)
{
	bool cf = flags & 1, pf = flags & 4, zf = flags & 0x40, sf = flags & 0x80,
	     of = flags & 0x800;
	const bool is[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};

	return is[condition >> 1 & 7] != (condition & 1);
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				REG_R12, REG_R13, REG_R14, REG_R15};

static void emulate(greg_t *g, const uint8_t *c, uint64_t pc)
{
	unsigned len = trial_steps_cheap(c);
	uint64_t next = pc + len;
	int32_t far = 0;

	if (len == 5 || len == 6) {
		memcpy(&far, c + len - 4, sizeof(far));
		if (len == 5 || holds(c[1], (uint64_t)g[REG_EFL]))
			next += (uint64_t)(int64_t)far;
	} else if (len == 2 && c[0] != 0x41) {
		if (c[0] == 0xeb || holds(c[0], (uint64_t)g[REG_EFL]))
			next += (uint64_t)(int64_t)(int8_t)c[1];
	} else if (c[0] != 0x90) {
		uint64_t value = (uint64_t)g[greg_of[(c[len - 1] & 7) + (len == 2 ? 8 : 0)]];

		g[REG_RSP] -= 8;
		memcpy((void *)(uintptr_t)g[REG_RSP], &value, sizeof(value));
	}
	g[REG_RIP] = (greg_t)next;
}

/* --- traps --------------------------------------------------------------------------------------
 */

static void fill(struct trial_state *s, const greg_t *g, uint64_t pc)
{
	for (int i = 0; i < 16; i++)
		s->reg[i] = (uint64_t)g[greg_of[i]];
	s->pc = pc - m.text + m.offset;
	s->code = m.code + (pc - m.text);
}

/* Left the library: on its way back to the caller, or by a call that will come back. */
static void go_out(greg_t *g, uint64_t pc)
{
	uint64_t sp = (uint64_t)g[REG_RSP], back;
	struct trial_state s;

	memcpy(&back, (const void *)(uintptr_t)sp, sizeof(back));
	g[REG_EFL] &= ~(greg_t)TRAP_FLAG;
	if (sp >= m.stop_sp || !is_inside(back)) {
		m.mode = IDLE;
		return;
	}
	fill(&s, g, m.text);
	if (m.w.out)
		m.w.out(m.w.ctx, pc, &s);
	if (m.mode == IDLE)
		return;
	m.back = back;
	m.back_sp = sp + 8;
	m.mode = OUTSIDE;
	put(back - m.text, INT3);
}

static void on_step(greg_t *g)
{
	uint64_t pc = (uint64_t)g[REG_RIP];
	struct trial_state s;

	if (m.mode == WAITING && is_inside(pc)) {
		m.mode = INSIDE;
		m.stop_sp = (uint64_t)g[REG_RSP] + 1;
	}
	if (m.mode == INSIDE && !is_inside(pc)) {
		go_out(g, pc);
		return;
	}
	if (m.mode == INSIDE) {
		fill(&s, g, pc);
		m.w.step(m.w.ctx, &s);
	}
	if (m.mode == IDLE)
		g[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static void come_back(greg_t *g, uint64_t pc)
{
	m.mode = INSIDE;
	g[REG_EFL] |= TRAP_FLAG;
	if (!m.flags[pc - m.text])
		put(pc - m.text, m.code[pc - m.text]);
	else
		return; /* the breakpoint there does the rest */
	g[REG_RIP] = (greg_t)pc;
	on_step(g);
}

/* Its way back is watched, too. */
static void enter(const greg_t *g)
{
	uint64_t sp = (uint64_t)g[REG_RSP], back;

	memcpy(&back, (const void *)(uintptr_t)sp, sizeof(back));
	if (m.depth == DEPTH)
		_exit(6);
	m.sp[m.depth++] = sp;
	if (!is_inside(back)) /* the public function has jumped here */
		return;
	m.flags[back - m.text] |= B_LEAVE;
	put(back - m.text, INT3);
}

static void leave(const greg_t *g)
{
	while (m.depth && m.sp[m.depth - 1] < (uint64_t)g[REG_RSP])
		m.depth--;
}

static void step_over(greg_t *g, uint64_t pc)
{
	put(pc - m.text, m.code[pc - m.text]);
	m.over = pc;
	g[REG_RIP] = (greg_t)pc;
	g[REG_EFL] |= TRAP_FLAG;
}

static void on_break(greg_t *g)
{
	static const uint8_t mark[] = {0xf3, 0x0f, 0x1e, 0xfa}; /* endbr64 */
	uint64_t pc = (uint64_t)g[REG_RIP] - 1;
	struct trial_state s;
	uint8_t flags;

	if (!is_inside(pc))
		_exit(4);
	flags = m.flags[pc - m.text];
	if (m.mode == OUTSIDE && pc == m.back && (uint64_t)g[REG_RSP] == m.back_sp)
		come_back(g, pc);
	if (!flags) {
		if (m.mode != INSIDE)
			_exit(5); /* a return address was reached in another way */
		return;
	}
	if (flags & B_LEAVE)
		leave(g);
	fill(&s, g, pc);
	if (flags & B_ENTER) {
		enter(g);
		m.w.enter(m.w.ctx, &s);
	}
	if (flags & B_HIT)
		m.w.hit(m.w.ctx, m.which[pc - m.text], &s);
	if (m.mode == INSIDE)
		m.w.step(m.w.ctx, &s);
	if (trial_steps_cheap(s.code))
		emulate(g, s.code, pc);
	else if (!memcmp(s.code, mark, sizeof(mark)))
		g[REG_RIP] = (greg_t)(pc + sizeof(mark));
	else
		step_over(g, pc);
}

static void on_trace(greg_t *g)
{
	if (m.over) {
		put(m.over - m.text, INT3);
		m.over = 0;
	}
	if (m.mode == IDLE || m.mode == OUTSIDE)
		g[REG_EFL] &= ~(greg_t)TRAP_FLAG;
	else
		on_step(g);
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	if (info->si_code == TRAP_TRACE)
		on_trace(g);
	else
		on_break(g);
}

int trial_steps_open(const void *inside, int fd, const struct trial_watcher *w)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO};
	int err;

	m.w = *w;
	if (!dl_iterate_phdr(find_text, (void *)(uintptr_t)inside) || m.len > TEXT_MAX)
		return -ENOEXEC;
	err = replace_text(fd);
	sa.sa_sigaction = on_trap;
	sigemptyset(&sa.sa_mask);
	return err ? err : sigaction(SIGTRAP, &sa, NULL) ? -errno : 0;
}

__attribute__((noinline)) void trial_steps_begin(void)
{
	m.mode = WAITING;
	/* The trap flag; below the red zone. */
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
			 "pushfq\n\t"
			 "orq $0x100, (%%rsp)\n\t"
			 "popfq\n\t"
			 "lea 128(%%rsp), %%rsp" ::
				 : "memory", "cc");
}

void trial_steps_end(void)
{
	m.mode = IDLE;
}

static bool take(uint64_t offset, uint64_t *at)
{
	*at = offset - m.offset;
	return offset >= m.offset && *at < m.len;
}

int trial_steps_break(uint64_t offset)
{
	uint64_t at;

	if (!take(offset, &at) || m.flags[at] || !trial_steps_cheap(m.code + at))
		return -EINVAL;
	if (m.n_breaks == TRIAL_BREAKS)
		return -ENOSPC;
	m.which[at] = (uint16_t)m.n_breaks++;
	m.flags[at] = B_HIT;
	put(at, INT3);
	return 0;
}

static void clear(uint64_t offset, uint8_t flag)
{
	uint64_t at;

	if (!take(offset, &at) || !(m.flags[at] & flag))
		return;
	m.flags[at] &= (uint8_t)~flag;
	if (!m.flags[at])
		put(at, m.code[at]);
}

void trial_steps_unbreak(uint64_t offset)
{
	clear(offset, B_HIT);
}

void trial_steps_unwatch(uint64_t offset)
{
	clear(offset, B_ENTER);
	m.n_watched--;
}

int trial_steps_watch(uint64_t offset)
{
	uint64_t at;

	if (!take(offset, &at))
		return -EINVAL;
	if (m.n_watched == WATCHED)
		return -ENOSPC;
	m.n_watched++;
	m.flags[at] |= B_ENTER;
	put(at, INT3);
	return 0;
}

void trial_steps_calm(void)
{
	m.depth = 0;
}

bool trial_steps_is_inside(void)
{
	return m.depth;
}

#else

int trial_steps_open(const void *inside, int fd, const struct trial_watcher *w)
{
	(void)inside, (void)fd, (void)w;
	return -ENOTSUP;
}

#endif
