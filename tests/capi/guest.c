/* A well-behaved guest: signal handlers stay as they were, a fork is told that it cannot go on, and the process may end
 * while requests run. */
#include "densecore.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_SIGNALS = 65 };

static void on_token(const char *token, int is_finished, void *user_data)
{
    *(int *)user_data = 1;
}

static void on_alarm(int signal_number)
{
}

static void read_handlers(struct sigaction *handlers)
{
    int i;
    memset(handlers, 0, N_SIGNALS * sizeof *handlers);
    for (i = 1; i < N_SIGNALS; i++)
        sigaction(i, NULL, &handlers[i]);
}

int main(int argc, char **argv)
{
    static struct sigaction before[N_SIGNALS], after[N_SIGNALS];
    static int has_begun;
    int i, status = 0;
    pid_t child;
    DenseCoreHandle engine;
    signal(SIGALRM, on_alarm); /* all others have the system's */
    read_handlers(before);
    engine = InitEngine(argv[1], NULL, 0, -1, 0);
    if (!engine) {
        printf("%s\n", GetLastError());
        return 0;
    }
    WaitRequest(engine, SubmitRequest(engine, "import", 4, on_token, &has_begun), -1);
    read_handlers(after);
    for (i = 1; i < N_SIGNALS; i++)
        if (before[i].sa_handler != after[i].sa_handler)
            printf("signal %d has another handler\n", i);
    fflush(stdout);

    child = fork();
    if (!child)
        _exit(SubmitRequest(engine, "import", 4, on_token, &has_begun) == DENSECORE_ERROR && strstr(GetLastError(), "fork")
                  ? 7
                  : 8);
    waitpid(child, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));

    has_begun = 0;
    SubmitRequest(engine, "import", 400, on_token, &has_begun);
    while (!has_begun)
        usleep(1000);
    return 0;
}
