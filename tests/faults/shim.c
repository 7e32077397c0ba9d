/* Preloaded into a process, makes one of its system calls go wrong.
 *
 * The libc functions that change or read files are wrapped. Calls that concern the directory given
 * to `fault_arm`, or something below it, are counted; the planned ones fail, are cut short, or kill
 * the process before, amid or after what they do. Everything else passes through untouched.
 *
 * Files are recognised when they are opened, and by descriptor from then on: by an absolute path, or
 * by one that starts at a directory that is open and was recognised itself.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { NONE, FAIL, SHORT, KILL_BEFORE, KILL_AMID, KILL_AFTER, NO_DESCRIPTORS };

#define MOST_DESCRIPTORS 4096
#define MOST_CALLS 65536
#define MOST_BUFFERS 1024

static char root[PATH_MAX];
static size_t root_length;
static unsigned char watched[MOST_DESCRIPTORS];
static const char *trace[MOST_CALLS];
static long calls, struck, first, times;
static int action, failure;
static int listed = -1; /* the last copy of a descriptor */

/* ---- what the tests call ------------------------------------------------------------------- */

/* Watch `directory`; let the `at`-th call go wrong as planned, and those behind it, `count` in all,
 * fail, but for those that only ask. With NO_DESCRIPTORS, only those count that need a new one. */
void fault_arm(const char *directory, long at, long count, int what, int error)
{
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
    memset(watched, 0, sizeof watched);
    calls = struck = 0;
    first = at;
    times = count;
    action = what;
    failure = error;
}

/* Calls counted since then. */
long fault_calls(void) { return calls; }

/* How many of them went wrong. */
long fault_struck(void) { return struck; }

/* The function that the `n`-th call, from 0 on, was one of. */
const char *fault_trace(long n) { return n < calls && n < MOST_CALLS ? trace[n] : ""; }

/* Descriptors now open that are watched. */
int fault_descriptors(void)
{
    int open = 0;
    for (int fd = 0; fd < MOST_DESCRIPTORS; fd++)
        open += watched[fd];
    return open;
}

/* ---- inside -------------------------------------------------------------------------------- */

static int is_watched(int fd) { return fd >= 0 && fd < MOST_DESCRIPTORS && watched[fd]; }

/* Is `path`, which starts at `directory` if it is relative, the directory or below it? */
static int is_below(int directory, const char *path)
{
    static const char open_file[] = "/proc/self/fd/";
    if (!root_length)
        return 0;
    if (path[0] != '/')
        return is_watched(directory);
    if (strncmp(path, open_file, sizeof open_file - 1) == 0)
        return is_watched(atoi(path + sizeof open_file - 1));
    return strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == '\0');
}

static void watch(int fd, int on)
{
    if (fd >= 0 && fd < MOST_DESCRIPTORS)
        watched[fd] = on;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int needs_descriptor(const char *name)
{
    return strncmp(name, "open", 4) == 0 || strncmp(name, "fcntl", 5) == 0;
}

/* Does it only ask about a file? What undoes a failed call often asks first. */
static int asks(const char *name)
{
    return strstr(name, "stat") != NULL || strncmp(name, "lseek", 5) == 0;
}

/* Count a call; what is to become of it. */
static enum action before(const char *name)
{
    long n = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (n <= MOST_CALLS)
        trace[n - 1] = name;
    if (action == NO_DESCRIPTORS) {
        if (n < first || !needs_descriptor(name) ||
            __atomic_load_n(&struck, __ATOMIC_RELAXED) >= times)
            return NONE;
        __atomic_add_fetch(&struck, 1, __ATOMIC_RELAXED);
        return FAIL;
    }
    if (n < first || (n > first && asks(name)) ||
        __atomic_load_n(&struck, __ATOMIC_RELAXED) >= times)
        return NONE;
    __atomic_add_fetch(&struck, 1, __ATOMIC_RELAXED);
    if (n > first)
        return FAIL;
    if (action == KILL_BEFORE)
        die();
    return action;
}

static void after(enum action what)
{
    int kept = errno;
    if (what == KILL_AMID || what == KILL_AFTER)
        die();
    errno = kept;
}

/* What is left of a transfer of `size` bytes that is cut short: at least one. */
static size_t cut(size_t size, enum action what)
{
    return (what == SHORT || what == KILL_AMID) && size > 1 ? size / 2 : size;
}

/* The same for buffers: copies those that are left, and returns how many they are. */
static int cut_buffers(const struct iovec *from, int count, struct iovec *to, enum action what)
{
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += from[i].iov_len;
    size = cut(size, what);
    int used = 0;
    while (used < count && size) {
        to[used] = from[used];
        if (to[used].iov_len > size)
            to[used].iov_len = size;
        size -= to[used++].iov_len;
    }
    return used;
}

#define NEXT(name)                                                                                 \
    static __typeof__(&name) next;                                                                 \
    if (!next)                                                                                     \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);

/* Wrap `name`; `ours`: is the call watched; `shorten`: done to the arguments of a short one;
 * `failed`: how failure is returned. */
#define WRAP(type, name, parameters, arguments, ours, shorten, failed)                             \
    type name parameters                                                                           \
    {                                                                                              \
        NEXT(name)                                                                                 \
        if (!(ours))                                                                               \
            return next arguments;                                                                 \
        enum action what = before(#name);                                                          \
        if (what == FAIL) {                                                                        \
            errno = failure;                                                                       \
            return failed;                                                                         \
        }                                                                                          \
        shorten;                                                                                   \
        type result = next arguments;                                                              \
        after(what);                                                                               \
        return result;                                                                             \
    }

#define WHOLE (void)0
#define TRANSFER(name, parameters, arguments)                                                      \
    WRAP(ssize_t, name, parameters, arguments, is_watched(fd), size = cut(size, what), -1)
#define VECTOR(name, parameters, arguments)                                                        \
    WRAP(ssize_t, name, parameters, arguments, is_watched(fd) && count <= MOST_BUFFERS,            \
         struct iovec left[MOST_BUFFERS]; count = cut_buffers(buffers, count, left, what);         \
         buffers = left, -1)
#define ON_FILE(name, parameters, arguments)                                                       \
    WRAP(int, name, parameters, arguments, is_watched(fd), WHOLE, -1)
#define ON_PATH(name, parameters, arguments)                                                       \
    WRAP(int, name, parameters, arguments, is_below(AT_FDCWD, path), WHOLE, -1)
#define ON_PATH_AT(name, parameters, arguments)                                                    \
    WRAP(int, name, parameters, arguments, is_below(directory, path), WHOLE, -1)

/* ---- the functions ------------------------------------------------------------------------- */

TRANSFER(write, (int fd, const void *data, size_t size), (fd, data, size))
TRANSFER(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
TRANSFER(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
TRANSFER(read, (int fd, void *data, size_t size), (fd, data, size))
TRANSFER(pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
TRANSFER(pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
TRANSFER(sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size))
TRANSFER(sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size))

VECTOR(writev, (int fd, const struct iovec *buffers, int count), (fd, buffers, count))
VECTOR(pwritev, (int fd, const struct iovec *buffers, int count, off_t at), (fd, buffers, count, at))
VECTOR(pwritev64, (int fd, const struct iovec *buffers, int count, off64_t at),
       (fd, buffers, count, at))
VECTOR(pwritev2, (int fd, const struct iovec *buffers, int count, off_t at, int flags),
       (fd, buffers, count, at, flags))
VECTOR(pwritev64v2, (int fd, const struct iovec *buffers, int count, off64_t at, int flags),
       (fd, buffers, count, at, flags))

ON_FILE(ftruncate, (int fd, off_t size), (fd, size))
ON_FILE(ftruncate64, (int fd, off64_t size), (fd, size))
ON_FILE(fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
ON_FILE(fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
ON_FILE(fsync, (int fd), (fd))
ON_FILE(fdatasync, (int fd), (fd))
ON_FILE(flock, (int fd, int operation), (fd, operation))

/* These two return the error. */
WRAP(int, posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size), is_watched(fd), WHOLE,
     failure)
WRAP(int, posix_fallocate64, (int fd, off64_t at, off64_t size), (fd, at, size), is_watched(fd),
     WHOLE, failure)

/* Memory has no descriptor any more: every flush of a mapped file counts. */
WRAP(int, msync, (void *start, size_t size, int flags), (start, size, flags), root_length, WHOLE,
     -1)

/* A mapping, which LMDB reads through; private ones without a file are the allocator's. */
WRAP(void *, mmap, (void *start, size_t size, int prot, int flags, int fd, off_t at),
     (start, size, prot, flags, fd, at), is_watched(fd), WHOLE, MAP_FAILED)
WRAP(void *, mmap64, (void *start, size_t size, int prot, int flags, int fd, off64_t at),
     (start, size, prot, flags, fd, at), is_watched(fd), WHOLE, MAP_FAILED)

/* Only looking for data or a hole asks the file system. */
#define SEEKS (is_watched(fd) && (whence == SEEK_DATA || whence == SEEK_HOLE))
WRAP(off_t, lseek, (int fd, off_t at, int whence), (fd, at, whence), SEEKS, WHOLE, -1)
WRAP(off64_t, lseek64, (int fd, off64_t at, int whence), (fd, at, whence), SEEKS, WHOLE, -1)

ON_FILE(fstat, (int fd, struct stat *info), (fd, info))
ON_FILE(fstat64, (int fd, struct stat64 *info), (fd, info))
ON_PATH(stat, (const char *path, struct stat *info), (path, info))
ON_PATH(stat64, (const char *path, struct stat64 *info), (path, info))
ON_PATH(lstat, (const char *path, struct stat *info), (path, info))
ON_PATH(lstat64, (const char *path, struct stat64 *info), (path, info))
ON_PATH_AT(fstatat, (int directory, const char *path, struct stat *info, int flags),
           (directory, path, info, flags))
ON_PATH_AT(fstatat64, (int directory, const char *path, struct stat64 *info, int flags),
           (directory, path, info, flags))

/* A directory is listed through a descriptor of its own, which libc closes by itself. */
WRAP(DIR *, fdopendir, (int fd), (fd), fd == listed, WHOLE, NULL)

ON_PATH(truncate, (const char *path, off_t size), (path, size))
ON_PATH(truncate64, (const char *path, off64_t size), (path, size))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(rmdir, (const char *path), (path))
ON_PATH(rename, (const char *path, const char *to), (path, to))
ON_PATH(link, (const char *path, const char *to), (path, to))

ON_PATH_AT(unlinkat, (int directory, const char *path, int flags), (directory, path, flags))
ON_PATH_AT(mkdirat, (int directory, const char *path, mode_t mode), (directory, path, mode))
ON_PATH_AT(renameat, (int directory, const char *path, int there, const char *to),
           (directory, path, there, to))
ON_PATH_AT(linkat, (int directory, const char *path, int there, const char *to, int flags),
           (directory, path, there, to, flags))

#define MODE                                                                                       \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                         \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

/* The one place where descriptors come from. `next` is a function like `openat`. */
static int opening(const char *name, int (*next)(int, const char *, int, ...), int directory,
                   const char *path, int flags, mode_t mode)
{
    if (!is_below(directory, path))
        return next(directory, path, flags, mode);
    enum action what = before(name);
    if (what == FAIL) {
        errno = failure;
        return -1;
    }
    int fd = next(directory, path, flags, mode);
    watch(fd, 1);
    after(what);
    return fd;
}

int openat(int directory, const char *path, int flags, ...)
{
    MODE NEXT(openat) return opening("openat", next, directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    MODE NEXT(openat64) return opening("openat64", next, directory, path, flags, mode);
}

/* A path in the current directory's sight is what `openat` takes too. */
int open(const char *path, int flags, ...)
{
    MODE NEXT(openat) return opening("open", next, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE NEXT(openat64) return opening("open64", next, AT_FDCWD, path, flags, mode);
}

/* What copies a descriptor, as listing a directory does; its other commands never fail. */
static int copying(const char *name, int (*next)(int, int, ...), int fd, int command, void *given)
{
    if ((command != F_DUPFD && command != F_DUPFD_CLOEXEC) || !is_watched(fd))
        return next(fd, command, given);
    enum action what = before(name);
    if (what == FAIL) {
        errno = failure;
        return -1;
    }
    listed = next(fd, command, given);
    after(what);
    return listed;
}

#define GIVEN                                                                                      \
    va_list rest;                                                                                  \
    va_start(rest, command);                                                                       \
    void *given = va_arg(rest, void *);                                                            \
    va_end(rest);

int fcntl(int fd, int command, ...)
{
    GIVEN NEXT(fcntl) return copying("fcntl", next, fd, command, given);
}

int fcntl64(int fd, int command, ...)
{
    GIVEN NEXT(fcntl64) return copying("fcntl64", next, fd, command, given);
}

/* Closing is not made to fail: nobody could do anything about it. */
int close(int fd)
{
    NEXT(close)
    watch(fd, 0);
    return next(fd);
}
