/* Makes one fdatasync or fsync fail: the first one after the file FAIL_NEXT_SYNC has appeared, which is removed. Nothing is
   synced then, as on a disk that lost the write. Preloaded into a service. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int must_fail(void) {
    const char *wish = getenv("FAIL_NEXT_SYNC");
    return wish && unlink(wish) == 0;
}

int fdatasync(int fd) {
    if (must_fail()) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

int fsync(int fd) {
    if (must_fail()) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

/* The kernel takes no order to sync while there is that file: it is left to a thread, which calls the above. */
long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_io_submit && getenv("FAIL_NEXT_SYNC") && access(getenv("FAIL_NEXT_SYNC"), F_OK) == 0) {
        errno = EAGAIN;
        return -1;
    }
    long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
