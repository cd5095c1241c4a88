// An echo server as tubular's own example is built: one goroutine per socket, ReadMsgUDP and WriteMsgUDP,
// the original destination from its control message, the socket's default buffers. It echoes instead of
// greeting, and logs nothing. With -netip it uses the calls that do not allocate.
//
//	go run main.go [-netip] --listen 127.0.0.1:1234
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"syscall"
)

const (
	ipOrigDstAddr   = 20 // IP_RECVORIGDSTADDR, linux/in.h
	ipv6OrigDstAddr = 74 // IPV6_RECVORIGDSTADDR, linux/in6.h
	ipv6FreeBind    = 78 // IPV6_FREEBIND
)

var byteOrder = binary.LittleEndian // x86-64 and arm64

func main() {
	listen := flag.String("listen", "127.0.0.1:1234", "address and port")
	lean := flag.Bool("netip", false, "use the calls that do not allocate")
	flag.Parse()
	if err := serve(*listen, *lean); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func serve(listen string, lean bool) error {
	address, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		return err
	}
	if err := receiveOrigDst(conn, address.IP.To4() != nil); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "ready", conn.LocalAddr())
	if lean {
		return echoWithoutAllocation(conn)
	}
	return echo(conn)
}

// receiveOrigDst asks for the original destination of each datagram.
func receiveOrigDst(conn *net.UDPConn, v4 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if v4 {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, ipOrigDstAddr, 1)
			return
		}
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IPV6, ipv6OrigDstAddr, 1)
		if failed == nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IPV6, ipv6FreeBind, 1)
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// echo does what the example does for each datagram: decode the destination into an address, encode it into
// a control message, and build the answer in memory of its own.
func echo(conn *net.UDPConn) error {
	payload, control := make([]byte, 1024), make([]byte, 64)
	for {
		n, controlled, _, peer, err := conn.ReadMsgUDP(payload, control)
		if err != nil {
			return err
		}
		asked, err := destination(control[:controlled])
		if err != nil {
			return err
		}
		answer := append([]byte(nil), payload[:n]...)
		// A reply that cannot be sent is lost, as on any network.
		_, _, _ = conn.WriteMsgUDP(answer, packetInfo(asked.IP), peer)
	}
}

// destination finds the address that the client aimed at.
func destination(control []byte) (*net.UDPAddr, error) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		header, data := message.Header, bytes.NewReader(message.Data)
		switch {
		case header.Level == syscall.SOL_IP && header.Type == ipOrigDstAddr:
			var address syscall.RawSockaddrInet4
			err := binary.Read(data, binary.BigEndian, &address)
			return &net.UDPAddr{IP: append(net.IP(nil), address.Addr[:]...), Port: int(address.Port)}, err
		case header.Level == syscall.SOL_IPV6 && header.Type == ipv6OrigDstAddr:
			var address syscall.RawSockaddrInet6
			err := binary.Read(data, binary.BigEndian, &address)
			return &net.UDPAddr{IP: append(net.IP(nil), address.Addr[:]...), Port: int(address.Port)}, err
		}
	}
	return nil, errors.New("no original destination")
}

// packetInfo is the control message that chooses where a reply leaves from.
func packetInfo(from net.IP) []byte {
	if v4 := from.To4(); v4 != nil {
		var data [syscall.SizeofInet4Pktinfo]byte
		copy(data[4:8], v4) // ipi_spec_dst
		return controlMessage(make([]byte, 64), syscall.SOL_IP, syscall.IP_PKTINFO, data[:])
	}
	var data [syscall.SizeofInet6Pktinfo]byte
	copy(data[:16], from) // ipi6_addr
	return controlMessage(make([]byte, 64), syscall.SOL_IPV6, syscall.IPV6_PKTINFO, data[:])
}

// controlMessage writes one into room and returns the part that it fills.
func controlMessage(room []byte, level, kind uint32, data []byte) []byte {
	byteOrder.PutUint64(room, uint64(syscall.CmsgLen(len(data))))
	byteOrder.PutUint32(room[8:], level)
	byteOrder.PutUint32(room[12:], kind)
	copy(room[syscall.SizeofCmsghdr:], data)
	return room[:syscall.CmsgSpace(len(data))]
}

// echoWithoutAllocation does the same with the calls and the care that leave the collector nothing to do.
func echoWithoutAllocation(conn *net.UDPConn) error {
	payload, control := make([]byte, 65536), make([]byte, 64)
	var v4 [syscall.SizeofInet4Pktinfo]byte
	var v6 [syscall.SizeofInet6Pktinfo]byte
	for {
		n, _, _, peer, err := conn.ReadMsgUDPAddrPort(payload, control)
		if err != nil {
			return err
		}
		// The original destination is the only control message that was asked for.
		asked, info := control[syscall.SizeofCmsghdr:], []byte(nil)
		if byteOrder.Uint32(control[8:]) == syscall.SOL_IP {
			copy(v4[4:8], asked[4:8])
			info = controlMessage(control, syscall.SOL_IP, syscall.IP_PKTINFO, v4[:])
		} else {
			copy(v6[:16], asked[8:24])
			info = controlMessage(control, syscall.SOL_IPV6, syscall.IPV6_PKTINFO, v6[:])
		}
		_, _, _ = conn.WriteMsgUDPAddrPort(payload[:n], info, peer)
	}
}
