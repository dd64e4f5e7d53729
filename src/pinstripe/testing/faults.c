/* A preload library that kills, fails, tears, shortens or records system calls below one directory. See faults.py.
 *
 * It stands at the libc symbols that CPython and our kernels call, so it sees what a process asks for, whatever layer asks.
 * The process arms it in itself; a process that does not is not touched.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHANGES = 1, READS = 2, LOOKS = 4, CLOSES = 8, DATA = 16 };
enum { COUNT, KILL, TEAR, FAIL, FAIL_AFTER, SHORTEN };

typedef struct { /* in memory that outlives the process */
    int64_t count, hits;
    int32_t is_directory, length;
    char what[8192]; /* operation, path, second path, each ended by 0 */
} told;

static struct {
    int armed, action, error, persistent, fake_sync, log_fd;
    unsigned classes;
    int64_t nth;
    char root[PATH_MAX];
    size_t root_length;
    told *told;
} state;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER; /* of what is recorded: the log has the order of the effects */

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

typedef struct { char text[PATH_MAX]; } path;

static int below(const path *p) {
    return strncmp(p->text, state.root, state.root_length) == 0 &&
           (p->text[state.root_length] == 0 || p->text[state.root_length] == '/');
}

static void path_of(path *p, int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, p->text, sizeof p->text - 1);
    p->text[n < 0 ? 0 : n] = 0;
}

static void path_at(path *p, int directory, const char *name) {
    if (!name || name[0] == '/') {
        snprintf(p->text, sizeof p->text, "%s", name ? name : "");
        return;
    }
    if (directory != AT_FDCWD) path_of(p, directory);
    else if (!getcwd(p->text, sizeof p->text)) p->text[0] = 0;
    size_t n = strlen(p->text);
    if (strcmp(name, ".") != 0 && name[0]) snprintf(p->text + n, sizeof p->text - n, "/%s", name);
}

/* Count an operation; say what is to be done to it. Dies here when it is to be killed. */
static int enter(const char *operation, unsigned classes, const path *a, const path *b, int is_directory) {
    if (!state.armed || !(classes & state.classes) || !(below(a) || (b && below(b)))) return COUNT;
    int64_t k = __atomic_add_fetch(&state.told->count, 1, __ATOMIC_SEQ_CST);
    if (state.action == COUNT || k < state.nth || (k > state.nth && !state.persistent)) return COUNT;
    if (k == state.nth) {
        state.told->is_directory = is_directory;
        state.told->length = snprintf(state.told->what, sizeof state.told->what, "%s%c%s%c%s", operation, 0, a->text, 0, b ? b->text : "");
    }
    __atomic_add_fetch(&state.told->hits, 1, __ATOMIC_SEQ_CST);
    if (state.action == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    return state.action;
}

/* --- recording ---------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t operation, flags;
    int64_t inode, offset;
    uint64_t data_length;
    uint32_t a_length, b_length;
} record;
enum { R_CREATE = 1, R_WRITE, R_TRUNCATE, R_LINK, R_RENAME, R_UNLINK, R_MKDIR, R_RMDIR, R_SYNC, R_SYMLINK, R_MARK };

static void put(uint32_t operation, uint32_t flags, int64_t inode, int64_t offset, const path *a, const path *b,
                const struct iovec *data, int pieces, size_t data_length) {
    record r = {operation, flags, inode, offset, data_length, a ? strlen(a->text) : 0, b ? strlen(b->text) : 0};
    struct iovec v[3] = {{&r, sizeof r}, {(void *)(a ? a->text : ""), r.a_length}, {(void *)(b ? b->text : ""), r.b_length}};
    syscall(SYS_writev, state.log_fd, v, 3);
    for (int k = 0; k < pieces && data_length; k++) {
        size_t n = data[k].iov_len < data_length ? data[k].iov_len : data_length;
        for (size_t done = 0; done < n;) {
            ssize_t w = syscall(SYS_write, state.log_fd, (char *)data[k].iov_base + done, n - done);
            if (w <= 0) abort();
            done += w;
        }
        data_length -= n;
    }
}

static int recording(const path *a, const path *b) { return state.armed && state.log_fd >= 0 && (below(a) || (b && below(b))); }
static void begin(int on) { if (on) pthread_mutex_lock(&order); }
static void end(int on) { if (on) pthread_mutex_unlock(&order); }

static int64_t inode_of(int fd) {
    struct stat s;
    return syscall(SYS_newfstatat, fd, "", &s, AT_EMPTY_PATH) ? -1 : (int64_t)s.st_ino;
}
static int is_directory(int fd) {
    struct stat s;
    return syscall(SYS_newfstatat, fd, "", &s, AT_EMPTY_PATH) == 0 && S_ISDIR(s.st_mode);
}
static int64_t inode_at(const path *p) {
    struct stat s;
    return syscall(SYS_newfstatat, AT_FDCWD, p->text, &s, AT_SYMLINK_NOFOLLOW) ? -1 : (int64_t)s.st_ino;
}

/* --- control ------------------------------------------------------------------------------------------------------- */

void faults_arm(const char *root, unsigned classes, int64_t nth, int action, int error, int persistent, int fake_sync, int log_fd, void *memory) {
    snprintf(state.root, sizeof state.root, "%s", root);
    state.root_length = strlen(state.root);
    state.classes = classes, state.nth = nth, state.action = action, state.error = error, state.persistent = persistent;
    state.fake_sync = fake_sync, state.log_fd = log_fd, state.told = memory;
    __atomic_store_n(&state.armed, 1, __ATOMIC_SEQ_CST);
}
void faults_disarm(void) { __atomic_store_n(&state.armed, 0, __ATOMIC_SEQ_CST); }
void faults_mark(const char *text) {
    path p;
    snprintf(p.text, sizeof p.text, "%s", text);
    int on = state.armed && state.log_fd >= 0;
    begin(on);
    if (on) put(R_MARK, 0, 0, 0, &p, 0, 0, 0, 0);
    end(on);
}

/* An operation that changes names: what to do about a fault, then the call, then the record. */
#define CHANGE(operation, a, b, call, kept) \
    do { \
        int verdict = enter(operation, CHANGES, a, b, 0); \
        if (verdict == FAIL) { errno = state.error; return -1; } \
        int on = recording(a, b); \
        begin(on); \
        int result = (int)(call); \
        int code = errno; \
        if (on && result >= 0) { kept; } \
        end(on); \
        if (verdict == FAIL_AFTER && result >= 0) { errno = state.error; return -1; } \
        errno = code; \
        return result; \
    } while (0)

/* --- opening ------------------------------------------------------------------------------------------------------- */

static int opened(int directory, const char *name, int flags, mode_t mode) {
    path p;
    path_at(&p, directory, name);
    int temporary = (flags & O_TMPFILE) == O_TMPFILE, changes = temporary || flags & (O_CREAT | O_TRUNC);
    int verdict = enter(changes ? "create" : "open", changes ? CHANGES : READS, &p, 0, 0);
    if (verdict == FAIL) { errno = state.error; return -1; }
    int on = changes && recording(&p, 0);
    begin(on);
    int64_t before = on && !temporary ? inode_at(&p) : -1;
    int fd = (int)syscall(SYS_openat, directory, name, flags | O_LARGEFILE, mode);
    int code = errno;
    if (on && fd >= 0) {
        if (temporary) put(R_CREATE, 1, inode_of(fd), 0, &p, 0, 0, 0, 0);
        else if (before < 0) put(R_CREATE, 0, inode_of(fd), 0, &p, 0, 0, 0, 0);
        else if (flags & O_TRUNC) put(R_TRUNCATE, 0, inode_of(fd), 0, &p, 0, 0, 0, 0);
    }
    end(on);
    if (verdict == FAIL_AFTER && fd >= 0) { syscall(SYS_close, fd); errno = state.error; return -1; }
    errno = code;
    return fd;
}
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) { MODE(flags) return opened(directory, name, flags, mode); }
int openat64(int directory, const char *name, int flags, ...) { MODE(flags) return opened(directory, name, flags, mode); }

int close(int fd) {
    if (state.armed && state.classes & CLOSES) {
        path p;
        path_of(&p, fd);
        long mode = syscall(SYS_fcntl, fd, F_GETFL); /* only what was written has something to say at its close */
        int verdict = mode >= 0 && (mode & O_ACCMODE) != O_RDONLY && !(mode & O_PATH) ? enter("close", CLOSES, &p, 0, 0) : COUNT;
        int result = (int)syscall(SYS_close, fd); /* a close that fails has closed */
        if (verdict == FAIL || verdict == FAIL_AFTER) { errno = state.error; return -1; }
        return result;
    }
    return (int)syscall(SYS_close, fd);
}

/* --- contents ------------------------------------------------------------------------------------------------------ */

static ssize_t written(const char *operation, int fd, const struct iovec *v, int pieces, off_t offset) {
    path p;
    if (!state.armed) return offset < 0 ? syscall(SYS_writev, fd, v, pieces) : syscall(SYS_pwritev, fd, v, pieces, offset, 0);
    path_of(&p, fd);
    int verdict = enter(operation, CHANGES | DATA, &p, 0, 0);
    if (verdict == FAIL) { errno = state.error; return -1; }
    struct iovec less[64];
    if (verdict == TEAR || verdict == SHORTEN) { /* half of it */
        size_t total = 0;
        for (int k = 0; k < pieces; k++) total += v[k].iov_len;
        size_t left = total > 1 ? total / 2 : total;
        int n = 0;
        for (; n < pieces && n < 64 && left; n++) {
            less[n] = v[n];
            if (less[n].iov_len > left) less[n].iov_len = left;
            left -= less[n].iov_len;
        }
        v = less, pieces = n;
    }
    int on = recording(&p, 0);
    begin(on);
    off_t at = offset < 0 ? (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : offset;
    ssize_t n = offset < 0 ? syscall(SYS_writev, fd, v, pieces) : syscall(SYS_pwritev, fd, v, pieces, offset, 0);
    int code = errno;
    if (on && n > 0) put(R_WRITE, 0, inode_of(fd), at, &p, 0, v, pieces, (size_t)n);
    end(on);
    if (verdict == TEAR) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (verdict == FAIL_AFTER && n >= 0) { errno = state.error; return -1; }
    errno = code;
    return n;
}
ssize_t write(int fd, const void *data, size_t n) { struct iovec v = {(void *)data, n}; return written("write", fd, &v, 1, -1); }
ssize_t writev(int fd, const struct iovec *v, int n) { return written("write", fd, v, n, -1); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t o) { struct iovec v = {(void *)data, n}; return written("write", fd, &v, 1, o); }
ssize_t pwrite64(int fd, const void *data, size_t n, off_t o) { return pwrite(fd, data, n, o); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) { return written("write", fd, v, n, o); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t o) { return written("write", fd, v, n, o); }
ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off_t o, int flags) { (void)flags; return written("write", fd, v, n, o); }

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    path p;
    path_of(&p, to);
    int verdict = enter("copy_file_range", CHANGES | DATA, &p, 0, 0);
    if (verdict == FAIL) { errno = state.error; return -1; }
    if ((verdict == TEAR || verdict == SHORTEN) && length > 1) length /= 2;
    int on = recording(&p, 0);
    begin(on);
    off64_t source = from_at ? *from_at : 0, target = to_at ? *to_at : 0;
    ssize_t n = syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
    int code = errno;
    if (on && n > 0) {
        char *copy = malloc((size_t)n);
        if (!copy || syscall(SYS_pread64, from, copy, n, source) != n) abort();
        struct iovec v = {copy, (size_t)n};
        put(R_WRITE, 0, inode_of(to), target, &p, 0, &v, 1, (size_t)n);
        free(copy);
    }
    end(on);
    if (verdict == TEAR) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (verdict == FAIL_AFTER && n >= 0) { errno = state.error; return -1; }
    errno = code;
    return n;
}

int ftruncate(int fd, off_t length) {
    path p;
    path_of(&p, fd);
    CHANGE("truncate", &p, 0, syscall(SYS_ftruncate, fd, length), put(R_TRUNCATE, 0, inode_of(fd), length, &p, 0, 0, 0, 0));
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int synced(const char *operation, int fd, long number) {
    path p;
    path_of(&p, fd);
    int verdict = enter(operation, CHANGES, &p, 0, is_directory(fd));
    if (verdict == FAIL) { errno = state.error; return -1; }
    int on = recording(&p, 0);
    begin(on);
    int result = state.armed && state.fake_sync && below(&p) ? 0 : (int)syscall(number, fd);
    int code = errno;
    if (on && result == 0) put(R_SYNC, (uint32_t)is_directory(fd), inode_of(fd), 0, &p, 0, 0, 0, 0);
    end(on);
    if (verdict == FAIL_AFTER && result == 0) { errno = state.error; return -1; }
    errno = code;
    return result;
}
int fsync(int fd) { return synced("fsync", fd, SYS_fsync); }
int fdatasync(int fd) { return synced("fsync", fd, SYS_fdatasync); }

/* --- names --------------------------------------------------------------------------------------------------------- */

int linkat(int from, const char *old, int to, const char *new, int flags) {
    path a, b;
    path_at(&a, from, old), path_at(&b, to, new);
    CHANGE("link", &b, &a, syscall(SYS_linkat, from, old, to, new, flags), put(R_LINK, 0, inode_at(&b), 0, &b, 0, 0, 0, 0));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    path a, b;
    path_at(&a, from, old), path_at(&b, to, new);
    CHANGE("rename", &a, &b, syscall(SYS_renameat2, from, old, to, new, flags), put(R_RENAME, 0, 0, 0, &a, &b, 0, 0, 0));
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int directory, const char *name, int flags) {
    path p;
    path_at(&p, directory, name);
    CHANGE(flags & AT_REMOVEDIR ? "rmdir" : "unlink", &p, 0, syscall(SYS_unlinkat, directory, name, flags),
           put(flags & AT_REMOVEDIR ? R_RMDIR : R_UNLINK, 0, 0, 0, &p, 0, 0, 0, 0));
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int directory, const char *name, mode_t mode) {
    path p;
    path_at(&p, directory, name);
    CHANGE("mkdir", &p, 0, syscall(SYS_mkdirat, directory, name, mode), put(R_MKDIR, 0, 0, 0, &p, 0, 0, 0, 0));
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int symlinkat(const char *content, int directory, const char *name) {
    path p, c;
    path_at(&p, directory, name);
    snprintf(c.text, sizeof c.text, "%s", content);
    CHANGE("symlink", &p, 0, syscall(SYS_symlinkat, content, directory, name), put(R_SYMLINK, 0, 0, 0, &p, &c, 0, 0, 0));
}
int symlink(const char *content, const char *name) { return symlinkat(content, AT_FDCWD, name); }

/* --- attributes: not recorded, for they name and hold nothing ------------------------------------------------------- */

#define NOTHING (void)0
int fchmod(int fd, mode_t mode) { path p; path_of(&p, fd); CHANGE("chmod", &p, 0, syscall(SYS_fchmod, fd, mode), NOTHING); }
int chmod(const char *name, mode_t mode) { path p; path_at(&p, AT_FDCWD, name); CHANGE("chmod", &p, 0, syscall(SYS_fchmodat, AT_FDCWD, name, mode), NOTHING); }
int fchown(int fd, uid_t u, gid_t g) { path p; path_of(&p, fd); CHANGE("chown", &p, 0, syscall(SYS_fchown, fd, u, g), NOTHING); }
int chown(const char *name, uid_t u, gid_t g) { path p; path_at(&p, AT_FDCWD, name); CHANGE("chown", &p, 0, syscall(SYS_fchownat, AT_FDCWD, name, u, g, 0), NOTHING); }
int lchown(const char *name, uid_t u, gid_t g) { path p; path_at(&p, AT_FDCWD, name); CHANGE("chown", &p, 0, syscall(SYS_fchownat, AT_FDCWD, name, u, g, AT_SYMLINK_NOFOLLOW), NOTHING); }
int utimensat(int directory, const char *name, const struct timespec times[2], int flags) {
    path p;
    path_at(&p, directory, name);
    CHANGE("utime", &p, 0, syscall(SYS_utimensat, directory, name, times, flags), NOTHING);
}
int futimens(int fd, const struct timespec times[2]) { path p; path_of(&p, fd); CHANGE("utime", &p, 0, syscall(SYS_utimensat, fd, 0, times, 0), NOTHING); }

/* --- reading and looking ---------------------------------------------------------------------------------------------- */

#define LOOK(class, operation, resolve, failed, call) \
    if (state.armed && state.classes & class) { \
        path p; \
        resolve; \
        if (enter(operation, class, &p, 0, 0) >= FAIL) { errno = state.error; return failed; } \
    } \
    return call
ssize_t read(int fd, void *out, size_t n) { LOOK(READS, "read", path_of(&p, fd), -1, syscall(SYS_read, fd, out, n)); }
ssize_t pread(int fd, void *out, size_t n, off_t o) { LOOK(READS, "read", path_of(&p, fd), -1, syscall(SYS_pread64, fd, out, n, o)); }
ssize_t pread64(int fd, void *out, size_t n, off_t o) { return pread(fd, out, n, o); }
ssize_t preadv(int fd, const struct iovec *v, int n, off_t o) { LOOK(READS, "read", path_of(&p, fd), -1, syscall(SYS_preadv, fd, v, n, o, 0)); }
ssize_t preadv64(int fd, const struct iovec *v, int n, off_t o) { return preadv(fd, v, n, o); }
DIR *opendir(const char *name) { REAL(DIR *, "opendir", const char *); LOOK(READS, "list", path_at(&p, AT_FDCWD, name), NULL, real(name)); }
DIR *fdopendir(int fd) { REAL(DIR *, "fdopendir", int); LOOK(READS, "list", path_of(&p, fd), NULL, real(fd)); }
struct dirent64 *readdir64(DIR *d) { REAL(struct dirent64 *, "readdir64", DIR *); LOOK(READS, "list", path_of(&p, dirfd(d)), NULL, real(d)); }

int stat64(const char *name, struct stat64 *s) { LOOK(LOOKS, "stat", path_at(&p, AT_FDCWD, name), -1, (int)syscall(SYS_newfstatat, AT_FDCWD, name, s, 0)); }
int lstat64(const char *name, struct stat64 *s) { LOOK(LOOKS, "stat", path_at(&p, AT_FDCWD, name), -1, (int)syscall(SYS_newfstatat, AT_FDCWD, name, s, AT_SYMLINK_NOFOLLOW)); }
int fstat64(int fd, struct stat64 *s) { LOOK(LOOKS, "stat", path_of(&p, fd), -1, (int)syscall(SYS_newfstatat, fd, "", s, AT_EMPTY_PATH)); }
int fstatat64(int directory, const char *name, struct stat64 *s, int flags) { LOOK(LOOKS, "stat", path_at(&p, directory, name), -1, (int)syscall(SYS_newfstatat, directory, name, s, flags)); }
int access(const char *name, int mode) { LOOK(LOOKS, "access", path_at(&p, AT_FDCWD, name), -1, (int)syscall(SYS_faccessat, AT_FDCWD, name, mode)); }
