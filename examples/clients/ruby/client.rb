# Calls a durable counter and prints the number:  ruby client.rb [ENDPOINT [NAME]]     (Debian: ruby-ffi-rzmq)
require "ffi-rzmq"
require "json"

endpoint, name = ARGV[0] || "tcp://127.0.0.1:7711", ARGV[1] || "alice"
socket = ZMQ::Context.new.socket(ZMQ::REQ)
socket.setsockopt(ZMQ::LINGER, 0)
socket.setsockopt(ZMQ::RCVTIMEO, 10_000)
socket.setsockopt(ZMQ::SNDTIMEO, 10_000) # Who was turned away could send nothing for ever.
socket.setsockopt(ZMQ::RECONNECT_IVL, 1_000)
if (file = ENV["TIDEGATE_KEY_FILE"]) # Where the service asks for access keys: the words of its last line.
  server, public, secret = File.read(file).split.last(3)
  { ZMQ::CURVE_SERVERKEY => server, ZMQ::CURVE_PUBLICKEY => public, ZMQ::CURVE_SECRETKEY => secret }.each { |option, key| socket.setsockopt(option, key) }
end
socket.connect(endpoint)

abort "#{endpoint}: nothing could be sent" if socket.send_string([1, "Counter", name, "get_unique_number"].to_json) < 0
abort "#{endpoint}: no answer" if socket.recv_string(body = +"") < 0
_, status, result = JSON.parse(body)
abort "#{result["code"]}: #{result["message"]} (#{result["outcome"]})" unless status.zero?
puts result
socket.close
