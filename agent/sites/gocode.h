/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gocode: the machine code of a function that Go compiled. How it takes its arguments, where it may
 * be probed at its beginning, and where it returns. The code is foreign: any bytes.
 */
#ifndef SSLC_AGENT_GOCODE_H
#define SSLC_AGENT_GOCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gocode_abi {
	GOCODE_STACK,     /* arguments and results behind the return address: up to 1.16 */
	GOCODE_REGISTERS, /* ABIInternal, since 1.17; arm64: 1.18 */
};

/**
 * The first instruction behind the check of the stack's size, with which Go functions begin: passed
 * once in each call, with stack pointer and arguments as the caller left them.
 *
 * abi   on x86-64 filled from the code itself: the check finds the goroutine in a register or in
 *       thread-local storage. Elsewhere the code does not tell, and it stays as it is.
 * Returns the offset in code[]; -ENOEXEC when it does not begin as Go's functions do.
 * Source: cmd/internal/obj/x86/obj6.go and arm64/obj7.go, stacksplit().
 */
int gocode_entry(const uint8_t *code, size_t len, enum gocode_abi *abi)
	__attribute__((warn_unused_result));
/**
 * Offsets of all return instructions in code[], which is one whole function.
 *
 * Returns their number; -ENOEXEC when a byte is no instruction, -E2BIG when there are more than
 * max.
 */
int gocode_returns(const uint8_t *code, size_t len, uint32_t out[], size_t max)
	__attribute__((warn_unused_result));

#endif
