;; A command component: prints one line with wasi:io and wasi:cli, then ends as its second core
;; function says. $how is replaced by the test.
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $io-error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $io-error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failures (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $failure (eq $failures)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $stream)) (param "contents" (list u8))
      (result (result (error $failure)))))))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output (type $outer-output))
    (export "output-stream" (type $output (eq $outer-output)))
    (export "get-stdout" (func (result (own $output))))))
  (alias export $stdout "get-stdout" (func $get-stdout))
  (alias export $streams "[method]output-stream.blocking-write-and-flush" (func $write))
  (core module $Memory (memory (export "memory") 1)
    (data (i32.const 0) "hello from a component\n"))
  (core instance $memory (instantiate $Memory))
  (alias core export $memory "memory" (core memory $bytes))
  (core func $get-stdout (canon lower (func $get-stdout)))
  (core func $write (canon lower (func $write) (memory $bytes)))
  (core module $Main
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (func $deliberate_end (result i32) $how)
    (func (export "run") (result i32)
      (call $write (call $get-stdout) (i32.const 0) (i32.const 23) (i32.const 64))
      (call $deliberate_end)))
  (core instance $main (instantiate $Main (with "host" (instance
    (export "get-stdout" (func $get-stdout))
    (export "write" (func $write))))))
  (alias core export $main "run" (core func $main-run))
  (func $run (result (result)) (canon lift (core func $main-run)))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command))
  (export "again" (func $run)))
