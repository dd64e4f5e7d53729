#include "lz4fn.h"

#include <stdio.h>

ps_lz4_functions ps_lz4;

#ifdef PINSTRIPE_LZ4_SYSTEM
#include <lz4.h>

int ps_lz4_bind(const char *path, char *error, size_t n)
{
    (void)path, (void)error, (void)n;
    ps_lz4 = (ps_lz4_functions){
        .version = LZ4_versionString,
        .bound = LZ4_compressBound,
        .state_bytes = LZ4_sizeofState,
        .compress = LZ4_compress_fast_extState,
        .decompress = LZ4_decompress_safe,
    };
    return 0;
}

#else
#include <dlfcn.h>

int ps_lz4_bind(const char *path, char *error, size_t n)
{
    /* Python has it loaded already, so this only counts the reference; it is never closed, for ps_lz4 lives as long as we do. */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(error, n, "cannot load the lz4 package's extension module: %s", dlerror());
        return -1;
    }
    ps_lz4_functions found;
    const struct {
        const char *name;
        void *slot;
    } wanted[] = {
        {"LZ4_versionString", &found.version},
        {"LZ4_compressBound", &found.bound},
        {"LZ4_sizeofState", &found.state_bytes},
        {"LZ4_compress_fast_extState", &found.compress},
        {"LZ4_decompress_safe", &found.decompress},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        void *symbol = dlsym(library, wanted[i].name); /* POSIX: a void pointer can hold a function's address */
        if (symbol == NULL) {
            snprintf(error, n, "%s exports no %s: install another build of the lz4 package, or build with PINSTRIPE_LZ4=system",
                     path, wanted[i].name);
            dlclose(library);
            return -1;
        }
        *(void **)wanted[i].slot = symbol;
    }
    ps_lz4 = found;
    return 0;
}
#endif
