/* Two copies of the library in one process: one interpreter, and the handles of one are known to the other. */
#include "densecore.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static int num_pieces;

static void on_token(const char *token, int is_finished, void *user_data)
{
    num_pieces++;
}

static void *function(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found)
        fprintf(stderr, "%s\n", dlerror());
    return found;
}

int main(int argc, char **argv)
{
    DenseCoreHandle (*init)(const char *, const char *, int, int, int);
    int (*submit)(DenseCoreHandle, const char *, int, TokenCallback, void *);
    int (*wait)(DenseCoreHandle, int, int);
    void (*release)(DenseCoreHandle);
    void *symbol, *first = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL), *second = dlopen(argv[3], RTLD_NOW | RTLD_LOCAL);
    DenseCoreHandle engine;
    int code;
    symbol = function(first, "InitEngine"), memcpy(&init, &symbol, sizeof symbol);
    symbol = function(second, "SubmitRequest"), memcpy(&submit, &symbol, sizeof symbol);
    symbol = function(first, "WaitRequest"), memcpy(&wait, &symbol, sizeof symbol);
    symbol = function(second, "FreeEngine"), memcpy(&release, &symbol, sizeof symbol);
    engine = init(argv[1], NULL, 0, -1, 0);
    code = wait(engine, submit(engine, "import", 4, on_token, NULL), -1);
    release(engine);
    dlclose(first);
    dlclose(second);
    first = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    symbol = function(first, "InitEngine"), memcpy(&init, &symbol, sizeof symbol);
    engine = init(argv[1], NULL, 0, -1, 0);
    symbol = function(first, "FreeEngine"), memcpy(&release, &symbol, sizeof symbol);
    release(engine);
    printf("code %d, %s, again %s\n", code, num_pieces ? "text" : "no text", engine ? "there" : "not there");
    return 0;
}
