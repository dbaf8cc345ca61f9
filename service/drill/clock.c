/* A wall clock that jumps for the processes that load this library before all others: seconds that a file
 * tells (eight bytes, shared memory) are added to it. Monotonic clocks and times of files stay true. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *told;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("LOADMASTER_TRIAL_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) told = memory;
    close(file);
}

static int64_t ahead_s(void) { return told == NULL ? 0 : *told; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead_s();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int status = (int)syscall(SYS_gettimeofday, now, zone);
    if (status == 0) now->tv_sec += ahead_s();
    return status;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where != NULL) *where = now.tv_sec;
    return now.tv_sec;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*true_wait)(sem_t *, const struct timespec *);
    if (true_wait == NULL) *(void **)&true_wait = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec true_until = {until->tv_sec - ahead_s(), until->tv_nsec};
    return true_wait(semaphore, &true_until);
}
