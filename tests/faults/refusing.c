/* Loaded before the C library (LD_PRELOAD): below the directory of the environment variable REFUSING, requests fail that many
   file systems do not know. fsync of a directory, symbolic and hard links, chmod, flock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int path_is_there(const char *path)
{
    const char *root = getenv("REFUSING");
    char absolute[PATH_MAX] = "", here[PATH_MAX] = "";
    if (!root)
        return 0;
    if (path[0] != '/' && getcwd(here, sizeof here))
        snprintf(absolute, sizeof absolute, "%.2000s/%.2000s", here, path);
    else
        snprintf(absolute, sizeof absolute, "%.4000s", path);
    return strncmp(absolute, root, strlen(root)) == 0;
}

static int descriptor_is_there(int descriptor)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return path_is_there(path);
}

static int refuse(int reason)
{
    errno = reason;
    return -1;
}

int fsync(int descriptor)
{
    struct stat status;
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (descriptor_is_there(descriptor) && fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode))
        return refuse(EINVAL);
    return real(descriptor);
}

int flock(int descriptor, int operation)
{
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    return descriptor_is_there(descriptor) ? refuse(EINVAL) : real(descriptor, operation);
}

int symlink(const char *target, const char *path)
{
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "symlink");
    return path_is_there(path) ? refuse(EPERM) : real(target, path);
}

int symlinkat(const char *target, int directory, const char *path)
{
    int (*real)(const char *, int, const char *) = dlsym(RTLD_NEXT, "symlinkat");
    return path_is_there(path) ? refuse(EPERM) : real(target, directory, path);
}

int link(const char *old, const char *path)
{
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    return path_is_there(path) ? refuse(EPERM) : real(old, path);
}

int chmod(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "chmod");
    return path_is_there(path) ? refuse(EPERM) : real(path, mode);
}

int fchmodat(int directory, const char *path, mode_t mode, int flags)
{
    int (*real)(int, const char *, mode_t, int) = dlsym(RTLD_NEXT, "fchmodat");
    return path_is_there(path) ? refuse(EPERM) : real(directory, path, mode, flags);
}
