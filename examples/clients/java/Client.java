// Calls a durable counter and prints the reply:  java -cp jzmq.jar Client.java [ENDPOINT [NAME]]     (Debian: libzmq-java)
import java.nio.charset.StandardCharsets;
import org.zeromq.ZMQ;

public class Client {
    public static void main(String[] arguments) {
        String endpoint = arguments.length > 0 ? arguments[0] : "tcp://127.0.0.1:7711";
        String name = arguments.length > 1 ? arguments[1] : "alice";
        ZMQ.Context context = ZMQ.context(1);
        ZMQ.Socket socket = context.socket(ZMQ.REQ);
        socket.setLinger(0);
        socket.setReceiveTimeOut(10_000);
        socket.setSendTimeOut(10_000);
        socket.connect(endpoint);
        boolean sent = socket.send(("[1, \"Counter\", \"" + name + "\", \"get_unique_number\"]").getBytes(StandardCharsets.UTF_8), 0);
        byte[] reply = sent ? socket.recv(0) : null; // [id, 0, result] or [id, 1, {code, message, …}]
        String body = reply == null ? "no answer" : new String(reply, StandardCharsets.UTF_8);
        socket.close();
        context.term();
        if (!body.startsWith("[1,0,")) throw new RuntimeException(body);
        System.out.println(body.substring(5, body.length() - 1));
    }
}
