<?php
// Calls a durable counter and prints the number:  php client.php [ENDPOINT [NAME]]     (Debian: php-cli php-zmq)
$endpoint = $argv[1] ?? "tcp://127.0.0.1:7711";
$name = $argv[2] ?? "alice";
$socket = (new ZMQContext())->getSocket(ZMQ::SOCKET_REQ);
$socket->setSockOpt(ZMQ::SOCKOPT_LINGER, 0);
$socket->setSockOpt(ZMQ::SOCKOPT_RCVTIMEO, 10000);
$socket->setSockOpt(ZMQ::SOCKOPT_SNDTIMEO, 10000); // Who was turned away could send nothing for ever.
$socket->setSockOpt(ZMQ::SOCKOPT_RECONNECT_IVL, 1000);
if ($file = getenv("TIDEGATE_KEY_FILE")) { // Where the service asks for access keys: the words of its last line.
    [$server, $public, $secret] = array_slice(preg_split('/\s+/', trim(file_get_contents($file))), -3);
    $socket->setSockOpt(ZMQ::SOCKOPT_CURVE_SERVERKEY, $server);
    $socket->setSockOpt(ZMQ::SOCKOPT_CURVE_PUBLICKEY, $public);
    $socket->setSockOpt(ZMQ::SOCKOPT_CURVE_SECRETKEY, $secret);
}
$socket->connect($endpoint);

$sent = $socket->send(json_encode([1, "Counter", $name, "get_unique_number"]));
$body = $sent === false ? false : $socket->recv();
if ($body === false) {
    fwrite(STDERR, "$endpoint: no answer\n");
    exit(1);
}
[, $status, $result] = json_decode($body, true);
if ($status !== 0) {
    fwrite(STDERR, "{$result["code"]}: {$result["message"]} ({$result["outcome"]})\n");
    exit(1);
}
echo $result, "\n";
