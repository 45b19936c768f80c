;; Says with its exit code what create-tcp-socket and create-udp-socket answer: 0 is two sockets,
;; 1 one refusal or two. Nothing is bound, nothing is sent.
(component
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $codes (enum "unknown" "access-denied" "not-supported" "invalid-argument"
      "out-of-memory" "timeout" "concurrency-conflict" "not-in-progress" "would-block"
      "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
      "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
      "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
      "permanent-resolver-failure"))
    (export "error-code" (type (eq $codes)))
    (type $families (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $families)))))
  (alias export $network "error-code" (type $code))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/tcp@0.2.0" (instance $tcp
    (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $tcp-socket))
  (import "wasi:sockets/udp@0.2.0" (instance $udp
    (export "udp-socket" (type (sub resource)))))
  (alias export $udp "udp-socket" (type $udp-socket))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $make-tcp
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $family (type $outer-family))
    (export "ip-address-family" (type $family (eq $outer-family)))
    (alias outer 1 $tcp-socket (type $outer-socket))
    (export "tcp-socket" (type $socket (eq $outer-socket)))
    (export "create-tcp-socket" (func (param "address-family" $family)
      (result (result (own $socket) (error $code)))))))
  (import "wasi:sockets/udp-create-socket@0.2.0" (instance $make-udp
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $family (type $outer-family))
    (export "ip-address-family" (type $family (eq $outer-family)))
    (alias outer 1 $udp-socket (type $outer-socket))
    (export "udp-socket" (type $socket (eq $outer-socket)))
    (export "create-udp-socket" (func (param "address-family" $family)
      (result (result (own $socket) (error $code)))))))

  (core module $Memory (memory (export "memory") 1))
  (core instance $memory (instantiate $Memory))
  (alias core export $memory "memory" (core memory $bytes))
  (alias export $make-tcp "create-tcp-socket" (func $create-tcp))
  (alias export $make-udp "create-udp-socket" (func $create-udp))
  (core func $make-tcp (canon lower (func $create-tcp) (memory $bytes)))
  (core func $make-udp (canon lower (func $create-udp) (memory $bytes)))
  (core module $Main
    (import "host" "memory" (memory 1))
    (import "host" "make-tcp" (func $make-tcp (param i32 i32)))
    (import "host" "make-udp" (func $make-udp (param i32 i32)))
    (func (export "run") (result i32)
      (call $make-tcp (i32.const 0) (i32.const 0))
      (call $make-udp (i32.const 0) (i32.const 16))
      (i32.or (i32.load8_u (i32.const 0)) (i32.load8_u (i32.const 16)))))
  (core instance $main (instantiate $Main (with "host" (instance
    (export "memory" (memory $bytes))
    (export "make-tcp" (func $make-tcp))
    (export "make-udp" (func $make-udp))))))
  (alias core export $main "run" (core func $main-run))
  (func $run (result (result)) (canon lift (core func $main-run)))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
