/* The least Storage SCP in C: what the kernel itself costs, and next to nothing else.
 *
 *     sink PORT DIRECTORY ANSWER...
 *
 * As sink.py does, it accepts all that the load generator proposes with answers written beforehand (in
 * hexadecimal: A-ASSOCIATE-AC, A-RELEASE-RP, C-ECHO-RSP, C-STORE-RSP), writes P-DATA-TF PDUs to a file
 * as they are, one write a read, and answers Success when the last PDV came. A process serves each
 * association.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ACCEPTED, RELEASED, ECHOED, STORED, ANSWERS };

static struct { size_t size; unsigned char octets[4096]; } answers[ANSWERS];
static unsigned char buffer[1 << 20];
static const char *directory;

static void all(int descriptor, const unsigned char *octets, size_t size)
{
    while (size > 0) {
        ssize_t written = write(descriptor, octets, size);
        if (written <= 0)
            exit(1);
        octets += written;
        size -= (size_t)written;
    }
}

static void answer(int peer, int which)
{
    all(peer, answers[which].octets, answers[which].size);
}

static int create(void)
{
    static int number;
    char path[4096];
    snprintf(path, sizeof path, "%s/%d-%d", directory, getpid(), ++number);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        exit(1);
    return file;
}

static void serve(int peer)
{
    size_t have = 0; /* octets in the buffer: those that the last PDU begins with */
    int file = -1;
    for (;;) {
        ssize_t came = read(peer, buffer + have, sizeof buffer - have);
        if (came <= 0)
            return;
        have += (size_t)came;
        size_t written = 0, end = 0;
        while (have >= end + 12 || (have >= end + 10 && buffer[end] == 5)) {
            const unsigned char *pdu = buffer + end;
            size_t length = 6 + ((size_t)pdu[2] << 24 | pdu[3] << 16 | pdu[4] << 8 | pdu[5]);
            if (length > sizeof buffer)
                exit(1);
            if (end + length > have)
                break;
            end += length;
            if (pdu[0] == 1) {
                answer(peer, ACCEPTED);
                written = end;
            } else if (pdu[0] != 4) {
                answer(peer, RELEASED);
                written = end;
            } else if (pdu[10] == answers[ECHOED].octets[10]) {
                answer(peer, ECHOED);
                written = end;
            } else if (file < 0) {
                file = create();
            } else if (pdu[11] == 2) {
                all(file, buffer + written, end - written);
                close(file);
                file = -1;
                written = end;
                answer(peer, STORED);
            }
        }
        if (file >= 0)
            all(file, buffer + written, end - written);
        memmove(buffer, buffer + end, have - end);
        have -= end;
    }
}

int main(int count, char **arguments)
{
    if (count != 3 + ANSWERS)
        return 2;
    directory = arguments[2];
    for (int which = 0; which < ANSWERS; which++) {
        const char *digits = arguments[3 + which];
        size_t size = strlen(digits) / 2;
        if (size > sizeof answers[which].octets)
            return 2;
        for (size_t index = 0; index < size; index++)
            sscanf(digits + 2 * index, "%2hhx", &answers[which].octets[index]);
        answers[which].size = size;
    }
    signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
    int yes = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) < 0 || listen(listening, 1024) < 0)
        return 1;
    for (;;) {
        int peer = accept(listening, NULL, NULL);
        if (peer < 0)
            continue;
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (fork() == 0) {
            serve(peer);
            _exit(0);
        }
        close(peer);
    }
}
