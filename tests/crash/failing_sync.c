/* Makes one fdatasync or fsync fail: the first one after the file FAIL_NEXT_SYNC has appeared, which is removed. Nothing is
   synced then, as on a disk that lost the write. Preloaded into a service. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
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
