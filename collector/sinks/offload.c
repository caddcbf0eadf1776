/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload: see offload.h. Without checksum offload there is no segmentation offload either: the
 * kernel takes the second away with the first (netdev_fix_features(), net/core/dev.c).
 */
#include "sinks/offload.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int ask(const char *interface, struct ethtool_value *value)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), err = 0;
	struct ifreq req;

	if (fd < 0)
		return -errno;
	memset(&req, 0, sizeof(req));
	snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", interface);
	req.ifr_data = (void *)value;
	if (ioctl(fd, SIOCETHTOOL, &req))
		err = -errno;
	close(fd);
	return err;
}

int offload_is_on(const char *interface)
{
	struct ethtool_value v = {.cmd = ETHTOOL_GTXCSUM};
	int err = ask(interface, &v);

	return err ? err : v.data != 0;
}

int offload_switch_off(const char *interface)
{
	struct ethtool_value v = {.cmd = ETHTOOL_STXCSUM};
	int err = ask(interface, &v);

	if (err)
		return err;
	err = offload_is_on(interface);
	return err > 0 ? -EOPNOTSUPP : err;
}
