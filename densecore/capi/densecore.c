/* densecore.c - what stands behind densecore.h: finds a Python, starts or joins it, and calls densecore.capi in it.
 *
 * C99 and POSIX (dlopen, pthreads), also valid as C++, and nothing of Python's at compile time: libpython is opened at
 * run time, so that one build serves every version. Of its functions only ones of the stable ABI are used.
 *
 *   cc -c densecore.c          or, more conveniently:          densecore capi --build DIR
 *
 * Which Python: the one that is running in this process; else the program that the environment variable
 * DENSECORE_PYTHON names; else the one that was named at compile time by the macros below (densecore capi --build does
 * that); else that of the active virtual environment; else python3 of the PATH. DenseCore must be installed in it.
 *
 * The table that densecore/capi/table.py fills is declared below: keep both alike, and count TABLE_VERSION up.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_DEFAULT */
#endif

#include "densecore.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

/* Defined, as string literals, by whoever knows which Python it will be. */
#ifndef DENSECORE_PYTHON
#define DENSECORE_PYTHON ""
#endif
#ifndef DENSECORE_LIBPYTHON
#define DENSECORE_LIBPYTHON ""
#endif

#if defined(__cplusplus)
#define THREAD_LOCAL thread_local
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define THREAD_LOCAL _Thread_local
#else
#define THREAD_LOCAL __thread
#endif

enum { ERROR_SIZE = 1024, PATH_SIZE = 4096, TABLE_VERSION = 1 };

static const char NO_ENGINE[] = "there is no engine yet: InitEngine makes one";

/* ------------------------------------------------------------------ the last error of a thread */

static THREAD_LOCAL char last_error[ERROR_SIZE];

static int fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return DENSECORE_ERROR;
}

/* ------------------------------------------------------------------ the table of functions that Python fills */

/* `error` is where the text of an error goes: ERROR_SIZE bytes. */
typedef struct {
    int version;
    uintptr_t (*init_engine)(const char *path, const char *reserved, int threads, int node, int pinning, char *error);
    int (*free_engine)(uintptr_t engine, char *error);
    int (*submit)(uintptr_t engine, const char *prompt, int max_tokens, TokenCallback callback, void *user_data,
                  char *error);
    int (*submit_ids)(uintptr_t engine, const int *tokens, int n_tokens, int max_tokens, TokenCallback callback,
                      void *user_data, char *error);
    int (*submit_with_options)(uintptr_t engine, const char *prompt, const char *options, TokenCallback callback,
                               void *user_data, char *error);
    int (*submit_chat)(uintptr_t engine, const char *messages, const char *options, TokenCallback callback,
                       void *user_data, char *error);
    int (*submit_embedding)(uintptr_t engine, const char *prompt, EmbeddingCallback callback, void *user_data,
                            char *error);
    int (*cancel)(uintptr_t engine, int request_id, char *error);
    int (*wait)(uintptr_t engine, int request_id, int timeout_ms, char *error);
    int (*get_metrics)(uintptr_t engine, DenseCoreMetrics *metrics, char *error);
    int (*get_detailed_metrics)(uintptr_t engine, DetailedMetrics *metrics, char *error);
    void (*at_exit)(void);
} Table;

/* ------------------------------------------------------------------ libpython, as far as it is needed */

typedef struct PythonObject PythonObject;

/* (result, name, arguments); the second list is not in every version. */
#define PYTHON_FUNCTIONS(X)                                                                                            \
    X(int, Py_IsInitialized, (void))                                                                                   \
    X(void, Py_InitializeEx, (int install_signal_handlers))                                                            \
    X(wchar_t *, Py_DecodeLocale, (const char *text, size_t *length))                                                  \
    X(void *, PyEval_SaveThread, (void))                                                                               \
    X(int, PyGILState_Ensure, (void))                                                                                  \
    X(void, PyGILState_Release, (int state))                                                                           \
    X(PythonObject *, PyImport_ImportModule, (const char *name))                                                       \
    X(PythonObject *, PyObject_GetAttrString, (PythonObject * object, const char *name))                               \
    X(void *, PyLong_AsVoidPtr, (PythonObject * number))                                                               \
    X(void, PyErr_Fetch, (PythonObject * *type, PythonObject * *value, PythonObject * *traceback))                     \
    X(PythonObject *, PyObject_Str, (PythonObject * object))                                                           \
    X(const char *, PyUnicode_AsUTF8AndSize, (PythonObject * text, size_t *size))                                      \
    X(void, PyErr_Clear, (void))                                                                                       \
    X(void, Py_DecRef, (PythonObject * object))
#define OPTIONAL_PYTHON_FUNCTIONS(X)                                                                                   \
    X(void, Py_SetProgramName, (const wchar_t *name)) /* until 3.14 */                                                 \
    X(void *, PyInitConfig_Create, (void))            /* since 3.14 */                                                 \
    X(int, PyInitConfig_SetStr, (void *config, const char *name, const char *value))                                   \
    X(int, PyInitConfig_SetInt, (void *config, const char *name, int64_t value))                                       \
    X(int, PyInitConfig_GetError, (void *config, const char **message))                                                \
    X(void, PyInitConfig_Free, (void *config))                                                                         \
    X(int, Py_InitializeFromInitConfig, (void *config))

#define MEMBER(result, name, arguments) result(*name) arguments;
static struct {
    PYTHON_FUNCTIONS(MEMBER)
    OPTIONAL_PYTHON_FUNCTIONS(MEMBER)
} python;
#undef MEMBER

static int find_python_functions(void *library)
{
    void *symbol; /* copied, as C has no cast from an object pointer to a function pointer */
#define OPTIONAL(result, name, arguments)                                                                              \
    symbol = dlsym(library, #name);                                                                                    \
    memcpy(&python.name, &symbol, sizeof symbol);
#define REQUIRED(result, name, arguments)                                                                              \
    OPTIONAL(result, name, arguments)                                                                                  \
    if (!symbol)                                                                                                       \
        return fail("the Python library has no function %s: DenseCore needs CPython 3.11 or newer", #name);
    PYTHON_FUNCTIONS(REQUIRED)
    OPTIONAL_PYTHON_FUNCTIONS(OPTIONAL)
#undef REQUIRED
#undef OPTIONAL
    return DENSECORE_OK;
}

/* ------------------------------------------------------------------ which Python */

typedef struct {
    char executable[PATH_SIZE];
    char library[PATH_SIZE];
} Location;

static int read_line(FILE *stream, char *line)
{
    if (!fgets(line, PATH_SIZE, stream))
        return DENSECORE_ERROR;
    line[strcspn(line, "\n")] = '\0';
    return DENSECORE_OK;
}

/* Run a Python program to have it say where it is. */
static int ask(const char *program, Location *found)
{
    char command[PATH_SIZE + 64];
    FILE *answer;
    int incomplete;
    if (strchr(program, '\'') || strlen(program) >= PATH_SIZE)
        return fail("the path of a Python program cannot have an apostrophe in it, or be that long: %s", program);
    snprintf(command, sizeof command, "'%s' -m densecore.capi 2>/dev/null", program);
    answer = popen(command, "r");
    if (!answer)
        return fail("%s cannot be run", program);
    incomplete = read_line(answer, found->executable) || read_line(answer, found->library);
    pclose(answer);
    if (incomplete)
        return fail("%s is no Python that DenseCore is installed in: set the environment variable DENSECORE_PYTHON to "
                    "one, such as .venv/bin/python",
                    program);
    return DENSECORE_OK;
}

static int locate(Location *found)
{
    const char *chosen = getenv("DENSECORE_PYTHON"), *environment = getenv("VIRTUAL_ENV");
    char program[PATH_SIZE];
    if (chosen && *chosen)
        return ask(chosen, found);
    if (*DENSECORE_PYTHON) {
        snprintf(found->executable, PATH_SIZE, "%s", DENSECORE_PYTHON);
        snprintf(found->library, PATH_SIZE, "%s", DENSECORE_LIBPYTHON);
        return access(found->library, R_OK) == 0 ? DENSECORE_OK : ask(DENSECORE_PYTHON, found);
    }
    if (environment && *environment) {
        snprintf(program, sizeof program, "%s/bin/python", environment);
        return ask(program, found);
    }
    return ask("python3", found);
}

/* ------------------------------------------------------------------ starting or joining the interpreter */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for what follows; never held while waiting for the GIL */
static int is_ready;                                     /* an interpreter is there, and we have its functions */
static pid_t home;                                       /* the process in which that is so */
static const Table *table;

static int initialize_from_config(const char *executable)
{
    void *config = python.PyInitConfig_Create();
    const char *message = "not enough memory";
    int failed = !config || python.PyInitConfig_SetStr(config, "program_name", executable) ||
                 python.PyInitConfig_SetInt(config, "isolated", 0) ||
                 python.PyInitConfig_SetInt(config, "use_environment", 1) ||
                 python.PyInitConfig_SetInt(config, "user_site_directory", 1) ||
                 python.PyInitConfig_SetInt(config, "install_signal_handlers", 0) ||
                 python.Py_InitializeFromInitConfig(config);
    if (failed && config)
        python.PyInitConfig_GetError(config, &message);
    if (failed)
        fail("%s cannot be started: %s", executable, message);
    if (config)
        python.PyInitConfig_Free(config);
    return failed ? DENSECORE_ERROR : DENSECORE_OK;
}

static int initialize_simply(const char *executable)
{
    wchar_t *name = python.Py_DecodeLocale(executable, NULL); /* Python keeps it */
    if (!name || !python.Py_SetProgramName)
        return fail("%s cannot be started: its path cannot be decoded", executable);
    python.Py_SetProgramName(name);
    python.Py_InitializeEx(0);
    return DENSECORE_OK;
}

static int initialize(const char *executable)
{
    struct sigaction interrupt;
    int code;
    sigaction(SIGINT, NULL, &interrupt);
    code = (python.PyInitConfig_Create ? initialize_from_config : initialize_simply)(executable);
    if (code == DENSECORE_OK) /* told to install no signal handlers, Python still takes SIGINT with this module */
        python.Py_DecRef(python.PyImport_ImportModule("_signal"));
    sigaction(SIGINT, &interrupt, NULL);
    return code;
}

static void at_exit(void)
{
    if (table && home == getpid())
        table->at_exit();
}

static int start_interpreter(void)
{
    Location found;
    void *library;
    if (locate(&found))
        return DENSECORE_ERROR;
    if (!python.Py_IsInitialized) { /* else the program is linked with Python, and has not started it */
        if (!*found.library)
            return fail("%s has no shared libpython, which this library needs: install one (libpython3-dev in Debian), "
                        "or take a Python that was built with --enable-shared, and name it in DENSECORE_PYTHON",
                        found.executable);
        library = dlopen(found.library, RTLD_NOW | RTLD_GLOBAL); /* extension modules look for Python there */
        if (!library)
            return fail("%s cannot be loaded: %s", found.library, dlerror());
        if (find_python_functions(library))
            return DENSECORE_ERROR;
        if (python.Py_IsInitialized()) /* it was there before, and hidden from others (RTLD_LOCAL) */
            return DENSECORE_OK;
    }
    if (initialize(found.executable))
        return DENSECORE_ERROR;
    python.PyEval_SaveThread(); /* the GIL is free until somebody needs it */
    atexit(at_exit);
    return DENSECORE_OK;
}

/* Whether Python runs in this process already. */
static int join_interpreter(void)
{
    if (!dlsym(RTLD_DEFAULT, "Py_IsInitialized") || find_python_functions(RTLD_DEFAULT))
        return DENSECORE_ERROR;
    return python.Py_IsInitialized() ? DENSECORE_OK : DENSECORE_ERROR;
}

/* Put the exception that Python has raised into the last error. */
static void tell_exception(void)
{
    PythonObject *type = NULL, *value = NULL, *traceback = NULL, *text;
    const char *message = NULL;
    python.PyErr_Fetch(&type, &value, &traceback);
    text = value ? python.PyObject_Str(value) : NULL;
    if (text)
        message = python.PyUnicode_AsUTF8AndSize(text, NULL);
    fail("DenseCore cannot be imported: %s", message ? message : "for an unknown reason");
    python.PyErr_Clear();
    python.Py_DecRef(text);
    python.Py_DecRef(type);
    python.Py_DecRef(value);
    python.Py_DecRef(traceback);
}

/* The table of densecore.capi; NULL, with the error told, if that cannot be imported. */
static const Table *fetch_table(void)
{
    int state = python.PyGILState_Ensure();
    PythonObject *module = python.PyImport_ImportModule("densecore.capi.table");
    PythonObject *address = module ? python.PyObject_GetAttrString(module, "ADDRESS") : NULL;
    const Table *found = address ? (const Table *)python.PyLong_AsVoidPtr(address) : NULL;
    if (!found)
        tell_exception();
    python.Py_DecRef(address);
    python.Py_DecRef(module);
    python.PyGILState_Release(state);
    if (found && found->version != TABLE_VERSION) {
        fail("this library was built from another version of DenseCore than is installed: build it again");
        return NULL;
    }
    return found;
}

/* The table, ready to be used; NULL, with the error told, where there is none. */
static const Table *connect(int may_start)
{
    const Table *known;
    int is_foreign, ready;
    pthread_mutex_lock(&lock);
    if (!is_ready && (join_interpreter() == DENSECORE_OK || (may_start && start_interpreter() == DENSECORE_OK))) {
        is_ready = 1;
        home = getpid();
    }
    ready = is_ready;
    is_foreign = is_ready && home != getpid();
    known = table;
    pthread_mutex_unlock(&lock);
    if (!ready && !may_start)
        fail("%s", NO_ENGINE);
    if (is_foreign)
        fail("this process was forked from one that uses DenseCore, whose threads stayed behind: "
             "use DenseCore in one of them only, or start the other with exec");
    if (!ready || is_foreign)
        return NULL;
    if (known)
        return known;
    known = fetch_table();
    pthread_mutex_lock(&lock);
    table = known;
    pthread_mutex_unlock(&lock);
    return known;
}

/* ------------------------------------------------------------------ the functions of densecore.h */

DenseCoreHandle InitEngine(const char *model_path, const char *reserved, int threads, int numa_node_id,
                           int pinning_policy)
{
    const Table *functions = connect(1);
    if (!functions)
        return NULL;
    return (DenseCoreHandle)functions->init_engine(model_path, reserved, threads, numa_node_id, pinning_policy,
                                                   last_error);
}

void FreeEngine(DenseCoreHandle handle)
{
    const Table *functions = connect(0);
    if (functions)
        functions->free_engine((uintptr_t)handle, last_error);
}

int SubmitRequest(DenseCoreHandle handle, const char *prompt, int max_tokens, TokenCallback callback, void *user_data)
{
    const Table *functions = connect(0);
    if (!functions)
        return DENSECORE_ERROR;
    return functions->submit((uintptr_t)handle, prompt, max_tokens, callback, user_data, last_error);
}

int SubmitRequestIds(DenseCoreHandle handle, const int *tokens, int n_tokens, int max_tokens, TokenCallback callback,
                     void *user_data)
{
    const Table *functions = connect(0);
    if (!functions)
        return DENSECORE_ERROR;
    return functions->submit_ids((uintptr_t)handle, tokens, n_tokens, max_tokens, callback, user_data, last_error);
}

int SubmitRequestWithOptions(DenseCoreHandle handle, const char *prompt, const char *options_json,
                             TokenCallback callback, void *user_data)
{
    const Table *functions = connect(0);
    if (!functions)
        return DENSECORE_ERROR;
    return functions->submit_with_options((uintptr_t)handle, prompt, options_json, callback, user_data, last_error);
}

int SubmitChatRequest(DenseCoreHandle handle, const char *messages_json, const char *options_json,
                      TokenCallback callback, void *user_data)
{
    const Table *functions = connect(0);
    if (!functions)
        return DENSECORE_ERROR;
    return functions->submit_chat((uintptr_t)handle, messages_json, options_json, callback, user_data, last_error);
}

int SubmitEmbeddingRequest(DenseCoreHandle handle, const char *prompt, EmbeddingCallback callback, void *user_data)
{
    const Table *functions = connect(0);
    if (!functions)
        return DENSECORE_ERROR;
    return functions->submit_embedding((uintptr_t)handle, prompt, callback, user_data, last_error);
}

int CancelRequest(DenseCoreHandle handle, int request_id)
{
    const Table *functions = connect(0);
    return functions ? functions->cancel((uintptr_t)handle, request_id, last_error) : DENSECORE_ERROR;
}

int WaitRequest(DenseCoreHandle handle, int request_id, int timeout_ms)
{
    const Table *functions = connect(0);
    return functions ? functions->wait((uintptr_t)handle, request_id, timeout_ms, last_error) : DENSECORE_ERROR;
}

DenseCoreMetrics GetMetrics(DenseCoreHandle handle)
{
    const Table *functions = connect(0);
    DenseCoreMetrics metrics;
    memset(&metrics, 0, sizeof metrics);
    if (functions)
        functions->get_metrics((uintptr_t)handle, &metrics, last_error);
    return metrics;
}

DetailedMetrics GetDetailedMetrics(DenseCoreHandle handle)
{
    const Table *functions = connect(0);
    DetailedMetrics metrics;
    memset(&metrics, 0, sizeof metrics);
    if (functions)
        functions->get_detailed_metrics((uintptr_t)handle, &metrics, last_error);
    return metrics;
}

const char *GetLastError(void)
{
    return last_error;
}

const char *DenseCoreVersion(void)
{
    return DENSECORE_VERSION;
}
