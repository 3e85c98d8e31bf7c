"""Every bound of the system, with its unit, and how the bounds relate.

A bound that depends on another is asserted here, at import, so that a change of one cannot silently break the other.
"""

# Names, keys, values (contract, sections 4 and 9).
CLASS_BYTES_MAX = 256
NAME_BYTES_MAX = 1_024
KEY_BYTES_MAX = 480
"""With the 16 bytes that stand for the object in front it must be a key of LMDB, which has 511 at most (MDB_MAXKEYSIZE)."""
VALUE_BYTES_MAX = 2 << 20
"""As in Cloudflare's Durable Objects over SQLite."""
VALUE_DEPTH_MAX = 100
"""Lists and dicts in each other in one value: what was stored can be read from anywhere, also far down in a stack."""
EXCEPTION_TEXT_MAX = 16_384
"""Characters of what an exception says, of its cause and of its traceback; the rest is counted."""
EXCEPTION_NAME_MAX = 256
EXCEPTION_BYTES_MAX = 64 << 10
"""Arguments and attributes of an exception, encoded; one that has more does not come back as itself. All
that crosses beside the text has four times as much at most."""
EXCEPTION_CAUSES_MAX = 8
EXCEPTION_PARTS_MAX = 16
EXCEPTION_PARTS_DEPTH_MAX = 2
"""Groups within groups."""
KEYS_PER_READ_MAX = 128
"""Of `get_many`. As in Cloudflare's `get(keys)`."""
IDEMPOTENCY_KEY_BYTES_MAX = 64
KEYS_BYTES = 64 << 20
"""Memory of a worker for answers to calls with a key, unless configured: a hundred thousand small ones."""
KEYS_KEPT_S = 86_400
"""For how long they are kept: who was not answered asks again within a day."""
KEYS_PER_OBJECT = 1_000
"""Answers to plain keys of one object: what one object is asked does not drive out the answers of others."""
KEPT_RESULT_BYTES_MAX = 64 << 10
"""Of the result of a call with a key, to be given again. Of a larger one it is kept that there was one."""

# Messages (contract, section 9).
MESSAGE_BYTES_MAX = 16 << 20
FRAMES_PER_MESSAGE_MAX = 1_024
ENVELOPE_FRAMES_MAX = 32
"""Frames in front of the bodies, which the answer gets too: one for each proxy on the way, and two of a REQ socket."""
ENVELOPE_BYTES_MAX = 8 << 10
"""The same in bytes; a routing id has at most 255."""
FORWARDED_BYTES_MAX = MESSAGE_BYTES_MAX + (64 << 10)
"""What a worker accepts: a largest message to which the router has given its own call id."""
REPLY_BYTES_MAX = MESSAGE_BYTES_MAX - (64 << 10)
"""A result above this is answered `too_large`; the rest of a message is left for the envelope."""

# Placement (contract, section 9).
SLOTS = 16_384
"""As in Redis Cluster: few enough to be told one by one, enough to be dealt evenly to a few thousand shards."""
SHARDS_MAX = 4_096

# Queues. Beyond a bound a call is answered `overloaded` at once and is not executed.
OBJECT_CALLS_MAX = 1_000
"""Calls that wait to be started on one object."""
WORKER_CALLS_MAX = 200_000
"""Calls accepted by one worker and not yet answered: while there are more, it takes no message."""
WAITING_CALLS_MAX = 200_000
"""Calls that wait in one worker to be started: at gates, for the disk, for a header, for the end of a reset object."""
WAITING_CALL_BYTES_MAX = 128 << 20
"""Their arguments and options, with the default budget."""
ROUTER_CALLS_PER_WORKER_MAX = 200_000
"""Calls forwarded to one worker, or waiting for it to come back, and not yet answered."""
CALLS_SHARE = 2
"""From half of these on, each client may have as many calls as are free: one alone has half, and others find room."""
ROUTERS_MAX = 64
START_PAUSE_S_MIN = 1.0
START_PAUSE_S_MAX = 60.0
"""Between two tries of a start that fails for a reason that can pass: twice as long each time."""
INQUIRY_S = 10.0
"""A router asks a worker about calls that it has had for so long; one that it does not know twice is answered as lost."""
INQUIRY_CALLS_MAX = 10_000
"""Calls asked for at once; the others' turn is next time."""
INQUIRY_PATIENCE = 6
"""So many times a question that was not answered is waited for before another one is sent."""
INQUIRY_REST = 10
"""So many times as long as it took to look through its calls a worker does other things: who asks can take no more of it."""
DESCRIPTORS_MAX = 1 << 20
"""Up to here a process raises its limit: there are programs that close every descriptor which they might have."""
DESCRIPTORS_KEPT_MIN = 32
DESCRIPTORS_KEPT_MAX = 4_096
"""Descriptors that connections may not take, a quarter of all between these bounds: for log, store, control, and the connections
that are accepted before it is noticed."""
DESCRIPTORS_CLIENT_MIN = 16
"""How many must be left where a client makes a socket: libzmq's threads and the socket take up to ten."""
CONNECTIONS_WAITING_MAX = 1_024
"""Connections that have come and not been accepted, for each listening socket."""
KNOCKS_AT_ONCE = 256
"""Connections of one address that are not greeted yet, where clients need access keys: so many at once, then more, a second."""
KNOCKS_PER_S = 100.0
KNOCKS_MAX = 1_024
"""Of all addresses together."""
KNOCK_BYTES_MAX = 4 << 10
"""What one may send before it is greeted: a greeting takes less than 1,000 bytes."""
KNOCK_LOOK_S = 0.05
"""So often is looked how much they have sent."""
KNOCK_BARRED_S = 10.0
"""For so long the kernel drops what an address sends to the listening socket, once it has had more connections than it may."""
KNOCK_BARRED_MAX = 64
KNOCK_ADDRESSES_MAX = 10_000
HANDSHAKE_MS_MAX = 10_000
"""Within this time a connection must have completed ZMTP's greeting, or it is closed."""
WAIT_DOWN_S = 5.0
"""How long a call is kept for a worker that is down, because it fails again and again, before it is answered `unavailable`."""
WAIT_START_S = 60.0
"""The same for a worker that is being started: it recovers, and nothing is wrong."""
DEADLINE_GRACE_S = 0.05
"""How long after a caller's deadline the router waits for the worker to say so itself: it knows whether the call was started."""

# Those who watch a service over HTTP.
HTTP_CONNECTIONS_MAX = 32
"""To the supervisor, at once: a Prometheus or two, probes of a container, and somebody with a browser."""
HTTP_REQUEST_BYTES_MAX = 8 << 10
"""Of the head of a request; more is not read."""
HTTP_REQUEST_S = 5.0
"""Within this time a request has been sent and its answer taken, or the connection is closed."""

TRACES_FLUSH_S = 1.0
"""What a worker that ends waits for its spans to be exported."""

# The budget of a process: what calls and replies may take of its memory. All its queues share it.
BUDGET_BYTES = 512 << 20
"""Unless the configuration or the machine's memory says otherwise."""
BUDGET_BYTES_MIN = 256 << 20
BUDGET_SHARE = 4
"""A quarter is for calls that are not answered yet, a quarter for replies that were not taken yet. The rest is for what nobody
can count before it is there: a message that is being received on each connection, one more that waits to be read, and
the copies that are made while one is handled."""
HEAP_PERCENT = 80
"""Of its budget a router has no more in memory than that, if what is free can go back, or what has begun to arrive be given up:
the rest is for what is free between the pieces that are used, and for what comes between two looks."""
FREE_HEAP_BYTES_MAX = 256 << 20
"""What a process keeps of memory that it has freed, for as long as large messages come and a moment more."""
ERRORS_BYTES_MAX = 8 << 20
"""Room for the short errors that take the place of replies which were not taken."""
LARGE_BYTES = 64 << 10
"""From here on messages and results are looked at one by one: they are not copied without need, and it is noticed when they have
left."""
SEND_AHEAD_BYTES = 4 << 20
"""Of one client's replies the library has so many at once; the rest waits where it can be counted."""
CROWDED_SHARE = 4
"""A client whose replies take more than this part of its share gets nothing large run for it. The rest of the share is for what
has been started before that is known everywhere."""
UNFINISHED_LOOK_S = 0.05
"""So often is looked, where memory has grown, whether clients send messages that do not end."""
SUSPECTS_LOOK_S = 0.01
"""So often is looked again at those that seem to: in a tenth of a second the quickest sends 200 MiB."""
UNFINISHED_GROWTH_BYTES = 16 << 20
"""By so much memory has to have grown since the last look."""
UNFINISHED_AT_ONCE = 1_000
"""Connections that are looked at in one turn: about 3 ms."""
RECEIVE_AHEAD_MESSAGES = 16
"""Messages of one connection that the library reads before we do. Fewer would cost: at 4 a message takes twice the time."""
TURN_BYTES_MAX = 4 << 20
"""Bytes of messages after which no further one is read in this turn."""
RETRY_AFTER_MS = 100
"""What who is refused as `overloaded` is told to wait, at least."""
RETRY_UNREAD_MS = 1_000
"""The same for a client that has to take replies first."""

# The callers' side.
CALL_BYTES_MAX = MESSAGE_BYTES_MAX - (64 << 10)
"""Encoded arguments of one call; the rest of a message is left for the envelope."""
CLIENT_CALLS_MAX = ROUTER_CALLS_PER_WORKER_MAX // CALLS_SHARE
"""Calls of one client that one router or worker has not answered; beyond, a call is refused before it is sent."""
CONNECT_TIMEOUT_S = WAIT_DOWN_S
"""How long a call waits for a connection to the service, unless the client names another time: as long as the router keeps calls
for a worker that is down."""
BATCH_CALLS_MAX = 1_023
"""Calls in one message, so that the first of many are being run while the last are still being sent. With the head of their
session they are what a turn takes (`TURN_REQUESTS_MAX`)."""

ADDRESSES_MAX = 16
"""Addresses of one name that are tried."""

# Turns: how much one pass of a process does before others get their chance.
TURN_MESSAGES_MAX = 64
"""Messages read from one socket before the loop runs again."""
TURN_CONNECTIONS_MAX = 256
"""Connections that came or went, looked at before the loop runs again."""
TURN_REQUESTS_MAX = 1_024
"""Requests after which no further message is read in this turn."""
BATCH_AHEAD_CALLS = 8 * TURN_REQUESTS_MAX
"""Of a message with more requests than that: so many of its calls may be unanswered before more are cut off."""
BATCH_PAUSE_S = 0.005
"""And so long is waited until it is looked again, where nothing could be cut off."""
BATCH_PATIENCE_S = 1.0
"""After this time a part is cut off all the same: perhaps the calls that are not answered wait for it."""
PUT_OFF_CALL_BYTES = 400
"""What a request costs beside its bytes, once it is taken apart."""
REPLIES_PER_MESSAGE_MAX = 8 * TURN_REQUESTS_MAX
"""Whoever reads them handles so many in a turn."""
WORKER_AHEAD_CALLS = 2 * TURN_REQUESTS_MAX
"""Calls that a router sends to a worker before that has read them: it does not run dry, and who comes last waits for no more."""
WORKER_AHEAD_BYTES = TURN_BYTES_MAX
"""The same in bytes, and one message more: what is small does not stand behind many megabytes of others."""
SMALL_CALL_BYTES = 4 << 10
"""Up to here a call need not wait for that: all that may be ahead are as much together."""
CHECKPOINT_SLICE_KEYS = 64
"""Keys put into LMDB before the loop runs again: about 0.1 ms."""

# What one object piles up.
OBJECT_TASKS_MAX = 10_000
"""Tasks that code of one object has started and that are not done: then it can start no more."""
OBJECT_CALLBACKS_MAX = 10_000
"""Timers and callbacks of one object that have not been delivered: then it can set no timer."""
ABSENT_KEYS_MAX = 256
"""Deleted keys that a cache knows to be absent, or as many as it has others: then those that are durable are forgotten."""
PILE_TASKS = 1_000
"""So many at a time, calls that run among them, are named in the log and in the status."""
PILE_CALLBACKS = 1_000
PILE_BYTES = 64 << 20
"""So is one that keeps so much in memory: in its instance, or cached of its storage."""

USAGE_S_MIN = 1.0
"""Over less, what a process used of a core is not said: the kernel counts in ticks of 10 ms, and a start is no rate."""

# The disk.
SLOW_DISK_S = 3.0
"""A commit that takes longer is a problem in the status, until it is over and none has been as slow for `SLOW_DISK_KEPT_S`."""
SLOW_DISK_KEPT_S = 10.0

SILENT_S = 2.0
"""A process that owes the answer to a ping for so long is a problem in the status, with the time since its last answer."""

# Output: what is printed and logged and not yet taken by whoever reads it; lines beyond are lost and counted.
OUTPUT_BYTES_MAX = 1 << 20
OUTPUT_LINE_BYTES_MAX = 1 << 20
"""A longer line of a child may have lines of others in it."""
OUTPUT_FLUSH_S = 1.0
"""How long a process waits at its end for its last lines to be taken."""
OUTPUT_REST_S = 0.05
"""After it has read what a child has said the supervisor lets the next lines gather for so long: they wait in the kernel."""
LINE_CHARACTERS_MAX = 64 << 10
"""Of a message, and of a traceback, in one line of the log; the rest is counted."""
LINE_PART_CHARACTERS_MAX = 200
"""Of a name in the head of a line of text; in JSON and in the journal it is whole."""
JOURNAL_VALUE_BYTES_MAX = 64 << 10
"""Of one field: a datagram for journald takes 200 kB."""
PRINT_BYTES_MAX = 64 << 10
"""What is printed without a line break is a line when it is as long as that."""
TRACEBACKS_CHAINED_MAX = 100
"""Causes, contexts and members of groups that are shown without frames of the runtime."""

# Gates (contract, section 2).
SECTION_DEPTH_MAX = 64
SECTION_TIMEOUT_S = 30.0
"""In the body of a critical section, of a transaction, or in `on_start`."""
TRANSACTION_UNWIND_S = 1.0
"""After that, for the code of a transaction to leave it."""
CHAIN_ENTRIES_MAX = 64
"""Objects that a call says it has come through. Of a longer chain the oldest are forgotten."""
CHAIN_TOKENS_MAX = 8
"""Sections in each other that it names of one of them."""
CHAIN_LABEL_CHARACTERS_MAX = 100

# Resets (contract, section 2).
RESET_CLEANUP_S = 5.0
"""How long code of an instance that was reset may await while the cancellation unwinds it."""
RESET_CANCELS_MAX = 100
"""How many cancellations such code may swallow before it is closed."""

# Alarms (contract, section 5).
ALARM_DEATHS_MAX = 4
"""Processes that may die one after another while the handler of an object's alarm runs; then the alarm is abandoned."""
ALARM_DEATHS_ALONE = 2
"""From so many on the handler waits, longer each time, and then runs alone: others that died with it are no longer blamed."""
ALARM_ALONE_S = 10.0
"""A handler that runs alone and takes longer than this lets the next one begin."""

# Work that objects give to other processes.
OFFLOAD_PROCESSES = 2
"""Of each worker, once an object of it has offloaded something (`[service] offload_processes`)."""
OFFLOAD_PROCESSES_MAX = 256
OFFLOAD_S = 60.0
"""For so long a function may compute; then its process is killed (`[service] offload_s`)."""
OFFLOADED_MAX = 1_000
"""Functions that one worker has offloaded and that are not done."""

# Objects whose code holds up or ends their worker.
HELD_UP_SLOW_S = 0.1
"""Code of an object that runs for so long without a pause is named in the log, now and then."""
HELD_UP_NAMED_S = 0.5
"""Code that has run for so long is named while it runs, with its stack."""
HELD_UP_S = 1.5
"""Past this it is interrupted and its object reset (`[service] held_up_s`). Others are to be answered within 3 s: on a machine
that is busy time counts for two thirds (see `worker/patience`), and looks and the switch to another add some tenths."""
INTERRUPT_S_MAX = 0.5
"""Code that goes on for so long after it was interrupted, or that cannot be, ends its worker."""
HELD_UP_KINDS_MAX = 1_000
HELD_UP_KINDS_S = 10.0
"""Between two lines of one kind (class and method) of what was slow and is over."""
SUSPICION_S = 600.0
"""For so long after a death a worker writes down whose code it runs, and the offences of an object add up: interruptions, and
deaths of its worker."""
QUARANTINE_OFFENCES_MIN = 2
"""Offences after which an object is in quarantine, at first for `QUARANTINE_S_MIN`, twice as long after each further one."""
QUARANTINE_S_MIN = 4.0
QUARANTINE_S_MAX = 300.0

# Commits and log.
SEGMENT_BYTES = 32 << 20
LOG_SEGMENTS_MAX = 8
COMMIT_BYTES_MAX = 24 << 20
HELD_BYTES_MAX = 16 << 20
"""Large results that wait for the open commit, above which a worker starts no new event."""
UNDURABLE_BYTES_MAX = 16 << 20
"""Bytes written and not yet durable above which a worker starts no new event (backpressure)."""
KEYED_GROUP_BYTES_MAX = 1 << 20
"""What an object may have written in the open commit while a call with a key writes, without waiting for the disk to catch up."""
OBJECT_DIRTY_BYTES_MAX = 22 << 20
"""What one object may write without a suspension: such writes are atomic, so they must fit in one commit."""

SHIPPING_BYTES_MAX = 8 << 30
"""Of the log, kept for the next incremental backup of a service that makes them; more is given up, all of it."""
SHIPPING_FREE_BYTES_MIN = 256 << 20
"""It is also given up where the disk has less left."""
SPACE_RESERVE_BYTES = 16 << 20
"""Of each worker, on the disk, for checkpoints when there is no other room: the pages of a few small steps."""
UPKEEP_EVERY_S = 5.0
"""A worker looks so often whether there is room again on a disk that had none, and whether its log rests."""
LOG_REST_LOOKS = 3
"""After so many looks in a row with nothing written, its log gives back all but one small segment: to grow again under the next
load costs it a few writes of zeros ahead."""
SHRINK_BYTES_MIN = 8 << 20
"""A data file is written again, without its free pages, when those are more than half of it, and so much at least."""
SHRINK_LIVE_BYTES_MAX = 128 << 20
"""More is not copied beside a service: the log would wait for the disk. `tidegate compact` does it."""
STATE_VERIFY_BYTES_MAX = 128 << 20
"""A shard's data file up to this size is looked through, every page and row, at each start: 200 to 400 MB a second."""

# Chaos: what one run of `tidegate chaos` keeps.
CHAOS_POSSIBILITIES_MAX = 20_000
"""States, with what led there, in which an object may be, looked at for one answer; beyond, its history counts as undecided. A
run has a few; ten calls of unknown outcome on one object, in every order, a thousand."""
CHAOS_UNKNOWN_MAX = 8
"""Calls of unknown outcome to one object before callers turn to a new one in its place."""
CHAOS_STORY_CALLS = 2_000
"""Newest calls of each object, for the file that shows what was wrong."""

# Life of an object (contract, section 6).
IDLE_EVICT_S = 10.0
SLOW_CALL_S = 1.0
"""A call that takes longer, from its arrival to its answer, is named in the log."""
SNAPSHOT_BYTES = 256 << 20
"""A snapshot of a shard is taken when its stream has grown by so much since the last one (`[service] snapshot_mib`), and by half
of what its data file took then."""
SNAPSHOT_S = 86_400.0
"""Or at all, and the last one is so old (`[service] snapshot_s`)."""
LONG_CALL_S = 60.0
"""A call that has run for so long, and for `LONG_CALL_FACTOR` times what is slow, is named though it has not been answered."""
LONG_CALL_FACTOR = 10
CLUSTER_STALL_S = 6.0
"""Where servers keep the log: after a commit has waited so long for them, calls are refused that arrive. To replace one of them
that was killed takes them 4 s."""
SLOW_CALLS_NOTED_MAX = 1_000
"""Calls of which it is kept how long they waited at a gate, and of as many what their answer waits for."""
LOGGED_KINDS_MAX = 1_000
"""Kinds of failures of object code that are told apart in the log."""
LOGGED_KINDS_S = 1.0
"""Between two lines of one kind, at first."""
LOGGED_KINDS_S_MAX = 60.0
"""And when it does not stop."""
STORIES_MAX = 4_096
"""Moves of objects between states that a worker remembers, of all of them together: 1 MB at most."""
STORY_MAX = 8
"""Moves of one object that are told with a mistake of the runtime."""
TIMERS_KEEP_S = 70.0
"""How long a pending timer keeps its object in memory, from when a call or task of it has set one."""

assert KEPT_RESULT_BYTES_MAX * 64 <= KEYS_BYTES, "one answer does not drive out all others of its shard"
assert LINE_CHARACTERS_MAX * 2 * 6 <= OUTPUT_LINE_BYTES_MAX, "a line is read as one, whatever is escaped in it"
assert QUARANTINE_S_MAX < SUSPICION_S, "what is in quarantine is not forgotten"
assert HELD_UP_NAMED_S < HELD_UP_S, "who is interrupted has been named before"
assert VALUE_BYTES_MAX * 4 <= MESSAGE_BYTES_MAX, "a value must fit in a call and its reply with room to spare"
assert VALUE_BYTES_MAX * 4 <= CALL_BYTES_MAX, "a value must fit in a call with room to spare"
assert ENVELOPE_FRAMES_MAX * 255 <= ENVELOPE_BYTES_MAX, "frames that are routing ids always fit"
assert ENVELOPE_BYTES_MAX * 2 < MESSAGE_BYTES_MAX - REPLY_BYTES_MAX, "an envelope fits beside a legal result"
assert OBJECT_CALLS_MAX * 10 <= WAITING_CALLS_MAX <= WORKER_CALLS_MAX, "few objects cannot keep out the calls of all others"
assert CALL_BYTES_MAX * 8 <= WAITING_CALL_BYTES_MAX == BUDGET_BYTES // BUDGET_SHARE, "few calls cannot, either"
assert MESSAGE_BYTES_MAX * 4 <= BUDGET_BYTES_MIN // BUDGET_SHARE, (
    "a largest message fits in half of what is free, also beside others"
)
assert ERRORS_BYTES_MAX <= BUDGET_BYTES_MIN // 8
assert WORKER_AHEAD_CALLS * SMALL_CALL_BYTES <= 2 * WORKER_AHEAD_BYTES, "small calls are no large ones together"
assert BATCH_CALLS_MAX < TURN_REQUESTS_MAX, "a whole batch with the head of its session is handled in one turn"
assert SLOTS <= 65_536, "slots are stored as two bytes"
assert SHARDS_MAX <= SLOTS
assert COMMIT_BYTES_MAX <= SEGMENT_BYTES - (1 << 20), "one commit must fit in a segment"
assert UNDURABLE_BYTES_MAX + VALUE_BYTES_MAX * 2 <= COMMIT_BYTES_MAX, "what backpressure admits must fit in one commit"
assert UNDURABLE_BYTES_MAX + VALUE_BYTES_MAX * 2 <= OBJECT_DIRTY_BYTES_MAX < COMMIT_BYTES_MAX, "awaited puts never meet the limit"
