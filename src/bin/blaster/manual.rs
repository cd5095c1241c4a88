//! The text that --help shows after the options.

/// The same for every command.
pub(crate) const MANUAL: &str = "\
TARGETS
  ADDR:PORT         127.0.0.1:1234, [::1]:1234, [fe80::1%eth0]:1234
  PREFIX:PORT       192.0.2.0/24:1234, [2001:db8::/64]:1234
  PREFIX:LOW-HIGH   192.0.2.0/24:5000-5999
  PREFIX:any        192.0.2.0/24:any (ports 1024-65535)
  NAME:PORT         localhost:1234, echo.example.net:1234-1237
  Several targets take turns. Each flow or connection draws its own address and
  port; with --spray each datagram does. The draws depend only on --seed. A flow
  never draws an address that means a whole network of this host (broadcast), nor
  its own port. A name is looked up once, before anything is sent, and stands for
  all its addresses: they take turns as several targets do. Standard error and the
  report tell them. -4 and -6 take those of one family. Left out are those that
  --source can't reach, and those that this host has no route to.

MODES OF UDP
  open     sends by a schedule (--rate), whether replies come or not. Latency
           counts from the intended send time. So a stall of the server, or of
           blaster, shows in the latency.
  closed   each flow keeps --in-flight datagrams in flight. A reply, or the end of
           --timeout, makes room for the next. This shows the capacity of a path.
           Its latency looks too good when a server stalls. After several ICMP
           errors in a row a flow pauses for up to 100 ms.
  flood    sends as fast as the kernel accepts. This shows what breaks first.
  each once  with --each-once[=N]: each address and port of the targets gets one
           datagram (TCP: one connection and one message), or N, by the schedule of
           --rate. The order spreads over all of them: any first part of a run is an
           even sample. The report names the destinations with faults, summed up as
           prefixes and ranges of ports. Targets with more than 262,144 destinations
           get a sample of 65,536 (or --sample N): they are divided into as many equal
           parts, and --seed draws one destination of each. With a prefix as --source,
           the sources take turns, each is used, and those with faults are named, too.
  TCP      with a schedule (--rate) an open loop: messages by that, the connections in
           turns. With --mode connect and a schedule, new connections by that; at most
           --connections at a time, and the next ones wait. Otherwise a closed loop: each
           message of a connection waits for those before it.

SCHEDULES OF THE OPEN LOOP
  --rate 20k                  a constant rate, at even times
  --rate 10k..200k:60s        a ramp: the rate grows evenly for 60 s. From 0, and down
                              to 0, too
  --rate 1k:10s,50k:5s,1k     several rates, one after the other; ramps may be among
                              them. The last one stays, if it has no time. Without
                              --duration or --count, the run ends with the last time
  --rate 20k --burst 100      100 datagrams at once, 200 times a second
  --burst 100/10ms            100 datagrams at once every 10 ms
  --rate 20k --gaps poisson   gaps of random, exponentially distributed length, as those
                              of many independent clients; with --burst those between
                              the bursts. --seed repeats them
  --replay FILE               the times and sizes of a text file, one datagram (TCP: one
                              message, or connection with a message) a line:
                              \"0.00125 1400\" or \"1.25ms 1400\" is a time, in seconds if
                              it has no unit, and a size in bytes. A comma may stand
                              between both; # begins a comment. Times count from the
                              first line. It is sent once, with --duration or --count
                              again and again: a gap of the mean length is between
  Several --threads share a schedule, and together keep the times of one. The warmup
  has the first rate. If blaster is late, it sends all that is due at once; so nothing
  is left out. What is still due --timeout after the end is not sent any more: unsent.
  What a burst sends has one intended time, and leaves one after the other: that is
  slip as well. Here datagrams also stand for the messages and new connections of TCP.

SEARCH
  --find-max doubles the rate until a run misses the objective, halves the bracket
  until it is --precision wide, then runs both of its ends --repeat times more, in
  turns. These runs tell how sure the answer is: the probability that so many
  equal results are not chance. If they differ, more runs decide, or the search
  looks beside that rate. The first line tells how many runs it makes at most, and
  in what time; --search-runs and --search-time set that. The last runs confirm
  what is known, even if the bracket is still wide. If that fails, the answer is
  \"Not confirmed\", with what is known, and the exit status is 5. A search ends
  after four runs in which nothing came back. If blaster was the bottleneck in a run (it sent
  too little, or it may have caused the loss or the latency itself), the run never
  counts as the server's limit; if that decides the answer, the answer says so.
  TCP: the rate is that of messages, with --mode connect that of new connections.
  Connections that are refused or not established in time are misses of --loss. If the
  rate is not kept because all --connections are taken, that is blaster's limit.

PATH MTU
  blaster mtu TARGET finds the largest packet that gets to an echo server, and whose
  reply comes back, in one piece. It sends with DF, whatever this host believes of the
  path: the smallest size and the largest, then sizes that ICMP messages tell, usual
  ones, and the sizes between, eight at a time. A size without a reply is tried three
  times, the one above the answer at least eight times, in turns with the answer, since
  a lost datagram is no limit. The answer tells the limit:
    this host's interface       the path behind it may carry more
    a router                    it tells this MTU by ICMP
    a wrong ICMP message        it tells another MTU, or none
    a black hole                larger packets, or their replies, vanish
    the way back                replies come in fragments
    the server                  larger datagrams come back shorter or changed
  To tell the ways apart, it sends one size more that may be fragmented: if its reply
  comes, the way there has the limit. Routers may choose paths by the source port: each
  of --flows is searched, after the first one with few datagrams. The first line tells
  how many it sends at most, and in what time. TCP is not searched.

OUTCOMES
  Each datagram (TCP: message) that was sent is in exactly one class:
    ok            every byte as sent, from the address and port that it was sent
                  to, in time
    corrupted     other bytes came back, or more of them; also a reply that answers
                  nothing, if this was the only datagram of its flow in flight
    truncated     a true beginning came back, and no more
    misdirected   the reply came from another address or port
    late          right, but after --timeout
    lost          nothing came back
    unreachable   an ICMP report said so, and nothing came back
  Other counts: duplicated, reordered (overtaken by a later reply of its flow),
  crossed (a reply with the bytes of another flow's datagram), unattributed (a
  reply to nothing that this run sent), send_failures (the local kernel refused),
  own_drops (blaster's own sockets overflowed). The report shows three wrong
  replies of each kind: source, size, first bytes, and the first byte that differs.

DESTINATIONS
  A destination is an address and a port. It has one fault at most; if several fit,
  the first of these counts:
    misdirected   a reply came from another address or port
    corrupted     a reply was corrupted or truncated
    silent        nothing came back, whether or not an ICMP report or a refused
                  connection said why
    lossy         some of what was sent had no answer
    late          a reply came after --timeout
    unsendable    the local kernel refused to send there
  A prefix in the list lies in a target, and all its visited addresses have the
  fault. \"All ports\" are all visited ports of these addresses. In other modes than
  --each-once, the five worst lines are shown. With --spray over more than 65,536
  destinations, only those with faults are counted, the worst of them, and silent
  ones are among the lossy ones.

HEADERS
  With --dscp or --ttl, the report of UDP counts right replies by DSCP, by ECN bits
  and by TTL. Another DSCP than the one sent is no fault by itself: a router may
  have changed it, or the server does not send it back. tubular-echo does.

THE SERVER'S SIDE
  --server-metrics reads the counters of tubular-echo before and after a run, and
  tells where datagrams were lost: on the way there, in the server (and why it did
  not answer), or on the way back; what its receive buffers dropped; its CPU per
  echo. It says so if others loaded the server meanwhile, or if it restarted.

CONDITIONS for --fail-if, separated by commas
  COUNT>N or COUNT>P%   a name of an outcome or another count, or sent; P% is of
                        what was sent; loss means lost; unsent (of the schedule);
                        of TCP connections failed, broken, stuck;
                        with --dscp or --ttl right replies with other_dscp than
                        was sent, or with other_ecn; ttl_min, ttl_max of them;
                        silent destinations (P% is of the visited ones); with
                        --server-metrics lost_there, not_answered (by the server),
                        lost_back
  LATENCY>DURATION      p50, p90, p95, p99, p99.9, p99.99, max, from the intended
                        send time; with the prefix actual_ from the actual send time;
                        with the prefix slip_ the delay of blaster's sends, with
                        reading_ that of its reading
  rate<N                right replies per second
  found<N               the highest rate that --find-max found; it also holds if
                        that is not confirmed
  mtu<N                 of blaster mtu: the smallest path MTU in bytes
  Comparisons: > >= < <=. A latency that could not be measured fails its
  condition.

REPORTS
  blaster report A.json B.json shows runs side by side. With --merge, they come
  from machines that loaded the same targets at the same time, and become one
  report: counts, rates and histograms are added, each second of the wall clock
  with its own; percentiles are those of all replies together, never averages.
  Files of --steps and --find-max hold several runs. docs/blaster-report.schema.json
  is the JSON Schema of all of them.

WHILE IT RUNS
  --jsonl and --csv add a line for each interval of --every (without it: each second)
  to a file, or write it to standard output (-). A line counts what happened in the
  interval. A reply that has not come after --linger is lost; until then it waits. A
  full disk or a slow reader does not stop the run. A file that was moved away is made
  again. --duration forever runs until a signal, in bounded memory; with --each-once
  round after round. Then the report also names the destinations that had no right reply
  to their last message, and for how long. A TCP run without --each-once ends when no
  connection is left. --metrics serves Prometheus metrics at http://ADDR:PORT/metrics.

SIGNALS
  SIGINT (Ctrl-C), SIGTERM or SIGHUP ends the sending. Blaster waits for the
  replies in flight, writes the report, and exits with status 4. After a second SIGINT or SIGTERM it waits neither
  for replies nor for a FIFO or pipe that nobody reads. A SIGHUP that is ignored
  at the start, as with nohup(1), stays ignored.

EXIT STATUS
  0  done
  1  could not run, or a report could not be written, or not one right reply came,
     or (TCP) no connection was served to the end, or (mtu) a flow got nothing back;
     standard error says which
  2  bad command line
  3  a condition of --fail-if holds
  4  a signal ended it early; the report covers the time until then
  5  the answer of --find-max or of blaster mtu is not confirmed

EXAMPLES
  blaster udp 127.0.0.1:1234 -r 50k -d 5s
  blaster udp 192.0.2.0/24:any --spray --flows 64 --in-flight 8 \\
      --fail-if 'loss>0.01%,p99>1ms,misdirected>0'
  blaster udp 192.0.2.0/24:1-65535 --each-once --sample 100k --fail-if 'silent>0'
  blaster udp [::1]:1234 --mode flood --gso 32 --size 1200 --json report.json
  blaster udp 127.0.0.1:1234 --rate 10k..200k:60s --html ramp.html
  blaster udp 127.0.0.1:1234 --find-max --loss 0.1% --p99 500us
  blaster mtu 192.0.2.7:7 --fail-if 'mtu<1500'
  blaster report --merge host-*.json --fail-if 'loss>0.1%'
  blaster tcp 127.0.0.1:1234 --connections 64 --size 16k
  blaster tcp 127.0.0.1:1234 --mode connect --find-max --p99 20ms --connections 256
";
