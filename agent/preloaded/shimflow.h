/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimflow: checked records of preloaded processes in, struct sslc_event out. Keeps which
 * connection each descriptor and each TLS object of a process stands for, and how far each
 * connection has come. Asks the kernel through its caller; does no I/O of its own.
 */
#ifndef SSLC_AGENT_SHIMFLOW_H
#define SSLC_AGENT_SHIMFLOW_H

#include <linux/types.h>
#include <stdbool.h>
#include <stdint.h>

#include "event.h"
#include "preloaded/shimring.h"

struct shimflows;
struct shimproc; /* one process; until shimflows_leave() */

#define SHIMFLOW_OBJECTS_MAX 65536u     /* of one process; as many as the library keeps */
#define SHIMFLOW_FDS_MAX     65536u     /* of one process */
#define SHIMFLOW_CLEAR_MAX   (1u << 20) /* bytes of memory of one process, before TLS */
#define SHIMFLOW_LINGER_NS                                                                         \
	1000000000ull /* a child's word that it has the socket, too, may be late */

struct shimflows_conf {
	/* Borrowed during the call. SSLC_EV_DATA: its bytes stand apart, and may change while they
	 * are copied. */
	void (*event)(void *ctx, const struct sslc_event *ev, const uint8_t *bytes);
	/*
	 * What the kernel says about the descriptor that the record names: as sockfacts_take().
	 * -ESTALE: the number means another file by now. -ESRCH: the process is gone.
	 */
	int (*take)(void *ctx, void *process, const struct sslc_shim_rec *rec,
		    struct sslc_ev_open *out, uint64_t *cookie);
	/* Bytes on this descriptor of the process are not wanted. */
	void (*skip)(void *ctx, void *process, int fd, uint32_t fd_gen);
	void *ctx;
};

struct shimproc_conf {
	void *process;     /* the caller's, for take() and skip() */
	uint64_t start_ns; /* as in struct sslc_conn_id */
	uint64_t kin;      /* as in its ring; 0: none */
	uint32_t pid, uid;
	char comm[16];
};

int shimflows_new(struct shimflows **out, const struct shimflows_conf *conf)
	__attribute__((warn_unused_result));
/** Accepts NULL. Every process has left. */
void shimflows_free(struct shimflows *t);
/** NULL: out of memory. */
struct shimproc *shimflows_join(struct shimflows *t, const struct shimproc_conf *conf);

struct shimproc_end {
	uint64_t now_ns;
	uint64_t lost;  /* bytes that it counts as lost since it joined */
	bool has_heirs; /* its connections go on where a child turns out to have them */
	bool is_torn;   /* it has lost records that show ends */
};

/** A thread of the process was sending from this object when the process was killed. */
void shimflows_writing(struct shimflows *t, struct shimproc *p, uint64_t ssl);
/** Records of the process were lost, of whichever connections: none of those there are now ends as
 * if it were whole. */
void shimflows_torn(struct shimflows *t, struct shimproc *p);
/** The process is gone: its connections end. */
void shimflows_leave(struct shimflows *t, struct shimproc *p, const struct shimproc_end *end);
void shimflows_record(struct shimflows *t, struct shimproc *p, const struct shimring_record *r);
/** Connections whose last holder closed them and may have had heirs. */
void shimflows_tick(struct shimflows *t, uint64_t now_ns);
/** The agent does not want this connection, which may be another source's. */
void shimflows_skip(struct shimflows *t, uint64_t flow);
/** Connections now. */
size_t shimflows_count(const struct shimflows *t);

#endif
