# Calls a durable counter and prints the number:  perl client.pl [ENDPOINT [NAME]]     (Debian: libzmq-ffi-perl)
use strict;
use warnings;
use JSON::PP qw(decode_json encode_json);
use ZMQ::FFI qw(ZMQ_CURVE_PUBLICKEY ZMQ_CURVE_SECRETKEY ZMQ_CURVE_SERVERKEY ZMQ_RCVTIMEO ZMQ_RECONNECT_IVL ZMQ_REQ ZMQ_SNDTIMEO);

my $endpoint = shift // "tcp://127.0.0.1:7711";
my $name = shift // "alice";
my $context = ZMQ::FFI->new;
my $socket = $context->socket(ZMQ_REQ);
$socket->set_linger(0);
$socket->set(ZMQ_RCVTIMEO, 'int', 10_000);
$socket->set(ZMQ_SNDTIMEO, 'int', 10_000);    # Who was turned away could send nothing for ever.
$socket->set(ZMQ_RECONNECT_IVL, 'int', 1_000);
if (my $file = $ENV{TIDEGATE_KEY_FILE}) {    # Where the service asks for access keys: the words of its last line.
    open my $opened, "<", $file or die "$file: $!\n";
    my @key = (map { split } <$opened>)[-3 .. -1];
    $socket->set($_, 'string', shift @key) for ZMQ_CURVE_SERVERKEY, ZMQ_CURVE_PUBLICKEY, ZMQ_CURVE_SECRETKEY;
}
$socket->connect($endpoint);

$socket->send(encode_json([1, "Counter", $name, "get_unique_number"]));
my (undef, $status, $result) = @{decode_json($socket->recv)};
die "$result->{code}: $result->{message} ($result->{outcome})\n" if $status;
print "$result\n";
