/* SPDX-License-Identifier: Apache-2.0 */
/* apart: see apart.h. */
#include "preloaded/apart.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#define STACK_BYTES (64u << 10)
#define CROWD       16u /* honest programs' files are closed at once */
#define USERS       64u /* of whom files wait at the same time */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	uint32_t uid, n;
} users[USERS];
static unsigned waiting;

/* That of the user, or a free one. USERS: there is none. */
static unsigned place_of(uint32_t uid)
{
	unsigned free_one = USERS;

	for (unsigned i = 0; i < USERS; i++) {
		if (users[i].n && users[i].uid == uid)
			return i;
		if (!users[i].n)
			free_one = i;
	}
	return free_one;
}

/* A file's number, and above it its user's place. */
static void *close_it(void *what)
{
	unsigned place = (unsigned)((uintptr_t)what >> 32);

	close((int)(uint32_t)(uintptr_t)what);
	pthread_mutex_lock(&lock);
	waiting--;
	if (place < USERS)
		users[place].n--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

void apart_close(int fd, uint32_t uid)
{
	pthread_attr_t how;
	pthread_t thread;
	unsigned place;

	if (fcntl(fd, F_GET_SEALS) >= 0) { /* memory: nobody answers for it */
		close(fd);
		return;
	}
	pthread_mutex_lock(&lock); /* for good, when there is no thread */
	place = place_of(uid);
	if (place < USERS) {
		users[place].uid = uid;
		users[place].n++;
	}
	waiting++;
	pthread_mutex_unlock(&lock);
	if (pthread_attr_init(&how))
		return;
	(void)pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&how, STACK_BYTES);
	(void)pthread_create(&thread, &how, close_it,
			     (void *)((uintptr_t)place << 32 | (uint32_t)fd));
	pthread_attr_destroy(&how);
}

bool apart_is_crowded(uint32_t uid)
{
	unsigned place;
	bool is;

	pthread_mutex_lock(&lock);
	place = uid == APART_ANYBODY ? USERS : place_of(uid);
	is = place < USERS ? users[place].n >= CROWD : waiting >= CROWD;
	pthread_mutex_unlock(&lock);
	return is;
}
