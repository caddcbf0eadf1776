/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen IFACE: reads all packets of an interface until it is told to end by SIGTERM, then says how
 * many TCP segments and bytes of payload it saw, how many frames of type 0x88b6, how large the
 * largest segment's frame was, and how many segments had a wrong TCP checksum.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

/* RFC 9293, 3.1: of an IPv4 packet without options. */
static int is_wrong(const uint8_t *ip, unsigned len)
{
	unsigned long sum = 6 + len - 20;

	for (unsigned i = 12; i < len; i++)
		sum += i % 2 ? ip[i] : (unsigned long)ip[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum != 0xffff;
}

int main(int argc, char **argv)
{
	struct sigaction end = {.sa_handler = on_term}; /* without SA_RESTART: recv() ends */
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), size = 16 << 20;
	unsigned long segments = 0, bytes = 0, tests = 0, largest = 0, wrong = 0;
	static uint8_t f[70000];

	if (argc != 2 || fd < 0)
		return 2;
	at.sll_ifindex = (int)if_nametoindex(argv[1]);
	sigaction(SIGTERM, &end, NULL);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (!at.sll_ifindex || bind(fd, (struct sockaddr *)&at, sizeof(at)))
		return 2;
	puts("listening");
	fflush(stdout);
	while (!stop) {
		ssize_t n = recv(fd, f, sizeof(f), 0);

		tests += n == 60 && f[12] == 0x88 && f[13] == 0xb6;
		if (n < 54 || f[12] != 8 || f[13] != 0 || f[23] != 6)
			continue;
		segments++;
		largest = (unsigned long)n > largest ? (unsigned long)n : largest;
		wrong += (unsigned long)is_wrong(f + 14, (unsigned)(f[16] << 8 | f[17]));
		bytes += (unsigned)(f[16] << 8 | f[17]) - 20u - (f[46] >> 4) * 4u;
	}
	printf("segments %lu payload %lu tests %lu largest %lu wrong %lu\n", segments, bytes, tests,
	       largest, wrong);
	return 0;
}
