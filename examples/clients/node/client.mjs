// Calls a durable counter and prints the number:  npm install && node client.mjs [ENDPOINT [NAME]]
import { readFileSync } from "node:fs";
import { Request } from "zeromq";

const [endpoint = "tcp://127.0.0.1:7711", name = "alice"] = process.argv.slice(2);
const socket = new Request({ linger: 0, receiveTimeout: 10_000, sendTimeout: 10_000, reconnectInterval: 1_000 });
const file = process.env.TIDEGATE_KEY_FILE; // Where the service asks for access keys: the words of its last line.
if (file) [socket.curveServerKey, socket.curvePublicKey, socket.curveSecretKey] = readFileSync(file, "utf8").trim().split(/\s+/).slice(-3);
socket.connect(endpoint);

async function call(className, name, method, ...args) {
  await socket.send(JSON.stringify([1, className, name, method, args]));
  const [body] = await socket.receive();
  const [, status, result] = JSON.parse(body);
  if (status !== 0) throw new Error(`${result.code}: ${result.message} (${result.outcome})`);
  return result;
}

console.log(await call("Counter", name, "get_unique_number"));
socket.close();
