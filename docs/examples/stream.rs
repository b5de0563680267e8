//! Text that appears as it is generated, from Rust.
//!
//!     densecore capi --build lib
//!     rustc stream.rs -L lib -C link-arg=-Wl,-rpath,lib
//!     ./stream model.gguf "Once upon a time"

use std::ffi::{c_void, CStr, CString};
use std::io::Write;
use std::os::raw::{c_char, c_int};
use std::ptr::null;

type Handle = *mut c_void;
type TokenCallback = extern "C" fn(token: *const c_char, is_finished: c_int, user_data: *mut c_void);

#[link(name = "densecore")]
extern "C" {
    fn InitEngine(path: *const c_char, reserved: *const c_char, threads: c_int, node: c_int, pinning: c_int) -> Handle;
    fn FreeEngine(engine: Handle);
    fn SubmitRequest(
        engine: Handle,
        prompt: *const c_char,
        max_tokens: c_int,
        callback: TokenCallback,
        user_data: *mut c_void,
    ) -> c_int;
    fn WaitRequest(engine: Handle, request: c_int, timeout_ms: c_int) -> c_int;
    fn GetLastError() -> *const c_char;
}

fn last_error() -> String {
    unsafe { CStr::from_ptr(GetLastError()).to_string_lossy().into_owned() }
}

/// An engine that is freed when it goes out of scope.
struct Engine(Handle);

impl Engine {
    fn open(path: &str) -> Result<Engine, String> {
        let path = CString::new(path).map_err(|error| error.to_string())?;
        let handle = unsafe { InitEngine(path.as_ptr(), null(), 0, -1, 0) };
        if handle.is_null() {
            return Err(last_error());
        }
        Ok(Engine(handle))
    }

    /// Continue `prompt`; `on_text` gets each piece of text, on a thread of the engine.
    fn stream(&self, prompt: &str, max_tokens: i32, mut on_text: impl FnMut(&str) + Send) -> Result<(), String> {
        let prompt = CString::new(prompt).map_err(|error| error.to_string())?;
        let mut receiver: &mut (dyn FnMut(&str) + Send) = &mut on_text;
        let data = &mut receiver as *mut &mut (dyn FnMut(&str) + Send) as *mut c_void;
        unsafe {
            let request = SubmitRequest(self.0, prompt.as_ptr(), max_tokens, forward, data);
            // The receiver lives until the last callback has returned, as this waits for it.
            if request < 0 || WaitRequest(self.0, request, -1) < 0 {
                return Err(last_error());
            }
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        unsafe { FreeEngine(self.0) }
    }
}

extern "C" fn forward(token: *const c_char, _is_finished: c_int, data: *mut c_void) {
    unsafe {
        let receiver = &mut *(data as *mut &mut (dyn FnMut(&str) + Send));
        receiver(&CStr::from_ptr(token).to_string_lossy());
    }
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() != 3 {
        return Err("usage: stream model.gguf PROMPT".to_string());
    }
    let engine = Engine::open(&arguments[1])?;
    engine.stream(&arguments[2], 30, |text| {
        print!("{text}");
        let _ = std::io::stdout().flush();
    })?;
    println!();
    Ok(())
}
