/* fdatasync of log segments as slow, or as broken, as the control file says: "DELAY_US ERRNO". Preloaded into a service.
   As with a real disk, what took long is durable before the caller learns of it; what failed may or may not be. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_segment(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 4 && !memcmp(path + length - 4, ".seg", 4);
}

static int reads_control(unsigned *delay_us, int *failure) {
    char text[64] = "";
    const char *control = getenv("TEST_DISK");
    int file = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
    *delay_us = *failure = 0;
    if (file < 0)
        return 0;
    if (read(file, text, sizeof text - 1) > 0)
        sscanf(text, "%u %d", delay_us, failure);
    close(file);
    return *delay_us || *failure;
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    unsigned delay_us = 0;
    int failure = 0;
    if (is_segment(fd))
        reads_control(&delay_us, &failure);
    int result = failure ? -1 : real(fd);
    if (delay_us)
        usleep(delay_us);
    if (failure)
        errno = failure;
    return result;
}

static int refuses_orders(void) {
    unsigned delay_us;
    int failure;
    return reads_control(&delay_us, &failure);
}

#include "../../runtime/chaos/stage/no_orders.h"
