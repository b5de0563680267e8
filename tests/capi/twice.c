/* Two copies of the library in one process: one interpreter, and the handles of one are known to the other.
 *
 * With a libpython as the fourth argument that interpreter is there before, in a library that others do not see. */
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

static void start_hidden_python(const char *path)
{
    void (*initialize)(int);
    void *(*save_thread)(void);
    void *symbol, *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    symbol = function(library, "Py_InitializeEx"), memcpy(&initialize, &symbol, sizeof symbol);
    symbol = function(library, "PyEval_SaveThread"), memcpy(&save_thread, &symbol, sizeof symbol);
    initialize(0);
    save_thread();
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
    if (argc > 4)
        start_hidden_python(argv[4]);
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
