;; Ends with the code 42 by wasi:cli/exit's exit-with-code, which only newer guests know.
(component
  (import "wasi:cli/exit@0.2.3" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (alias export $exit "exit-with-code" (func $exit-with-code))
  (core func $exit-with-code (canon lower (func $exit-with-code)))
  (core module $Main
    (import "host" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (call $exit (i32.const 42)) (unreachable)))
  (core instance $main (instantiate $Main
    (with "host" (instance (export "exit" (func $exit-with-code))))))
  (alias core export $main "run" (core func $main-run))
  (func $run (result (result)) (canon lift (core func $main-run)))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.3" (instance $command)))
