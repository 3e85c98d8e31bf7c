/* Calls a durable counter and prints the reply:  make && ./client [ENDPOINT [NAME]]     (Debian: libzmq3-dev) */
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

int main(int argc, char **argv) {
    const char *endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:7711", *name = argc > 2 ? argv[2] : "alice";
    char body[4096];
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_REQ);
    int timeout_ms = 10000, linger_ms = 0, again_ms = 1000, status = 1;
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &timeout_ms, sizeof timeout_ms); /* Who was turned away could send nothing for ever. */
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &again_ms, sizeof again_ms); /* Its maximum is none for who is turned away. */
    /* TIDEGATE_KEY_FILE, where the service asks for access keys: the words of its last line. */
    char server[41] = "", public[41] = "", secret[41] = "", *path = getenv("TIDEGATE_KEY_FILE");
    for (FILE *file = path ? fopen(path, "r") : NULL; file && fgets(body, sizeof body, file);)
        sscanf(body, "%40s %40s %40s", server, public, secret);
    if (path && (zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server, 41) || zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public, 41) ||
                 zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, 41)))
        return fprintf(stderr, "%s: no access key\n", path);
    int size = snprintf(body, sizeof body, "[1, \"Counter\", \"%s\", \"get_unique_number\"]", name);
    if (zmq_connect(socket, endpoint) == 0 && zmq_send(socket, body, size, 0) == size &&
        (size = zmq_recv(socket, body, sizeof body - 1, 0)) >= 0) {
        body[size < (int)sizeof body ? size : (int)sizeof body - 1] = 0;
        long id, number; /* A reply is [id, 0, result] or [id, 1, {code, message, …}]. */
        if (sscanf(body, "[%ld,0,%ld]", &id, &number) == 2) status = printf("%ld\n", number) < 0;
        else fprintf(stderr, "error: %s\n", body);
    } else fprintf(stderr, "%s: %s\n", endpoint, zmq_strerror(zmq_errno()));
    zmq_close(socket);
    return zmq_ctx_term(context) != 0 || status;
}
