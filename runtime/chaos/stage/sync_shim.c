/* Preloaded into the service: fdatasync and fsync as slow, or as broken, as two files say.
   $TIDEGATE_CHAOS_SYNCS.slow: how many microseconds each takes longer, while the file is there.
   $TIDEGATE_CHAOS_SYNCS.fail: the errno by which one fails: the first one that sees the file, which removes it. Nothing is synced then. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static long number_in(const char *suffix, int take) {
    const char *stem = getenv("TIDEGATE_CHAOS_SYNCS");
    char path[4096], text[32] = "";
    if (!stem || snprintf(path, sizeof path, "%s%s", stem, suffix) >= (int)sizeof path)
        return 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0 || (take && unlink(path) != 0))
        return 0;
    return atol(text);
}

static int hurt(int fd, int (*real)(int)) {
    int before = errno;
    long failure = number_in(".fail", 1), delay_us = number_in(".slow", 0);
    errno = before;
    int result = failure ? -1 : real(fd);
    int after = errno;
    if (delay_us > 0)
        usleep(delay_us);
    errno = failure ? (int)failure : after;
    return result;
}

int fdatasync(int fd) { return hurt(fd, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync")); }

int fsync(int fd) { return hurt(fd, (int (*)(int))dlsym(RTLD_NEXT, "fsync")); }

static int refuses_orders(void) { return number_in(".fail", 0) || number_in(".slow", 0); }

#include "no_orders.h"
