// Linked into wheels alone (CMake option DEEPWELL_OLDER_LIBRARIES): lets a module that a new g++ has compiled load beside the C and
// C++ libraries of older distributions.
//
// g++ takes four functions from versions of glibc and libstdc++ that such systems lack. Here they are defined with functions that
// every libstdc++ since GCC 7 and every glibc has. The kernels are untouched: their object files are those of a source build.
//
// A symbol with a version (`.symver`) is never resolved to a copy inside this module, so none of these can call itself.

#if !defined(__x86_64__) || !defined(__linux__)
#error "the versions below are those of x86-64 Linux"
#endif

#define DW_VERSIONED(name, symbol) __asm__(".symver " #name "," symbol)
#define DW_HIDDEN extern "C" __attribute__((visibility("hidden")))

// log: glibc 2.29 has a second one that leaves errno to the caller; the values are the same.
DW_VERSIONED(dw_log, "log@GLIBC_2.2.5");
extern "C" double dw_log(double x);
DW_HIDDEN double __wrap_log(double x) { return dw_log(x); }  // by the linker's --wrap=log

// Counting the references of an exception: exported as such since GCC 11, before that inside copying and destroying a std::exception_ptr,
// which is one pointer.
DW_VERSIONED(dw_exception_copy, "_ZNSt15__exception_ptr13exception_ptrC1ERKS0_@CXXABI_1.3.3");
DW_VERSIONED(dw_exception_destroy, "_ZNSt15__exception_ptr13exception_ptrD1Ev@CXXABI_1.3.3");
extern "C" void dw_exception_copy(void** to, void* const* from);
extern "C" void dw_exception_destroy(void** self);

DW_HIDDEN void dw_exception_add(void** self) __asm__("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
DW_HIDDEN void dw_exception_add(void** self) {
  void* copy = nullptr;  // is never destroyed: its reference is the one that is added
  dw_exception_copy(&copy, self);
}

DW_HIDDEN void dw_exception_release(void** self) __asm__("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
DW_HIDDEN void dw_exception_release(void** self) {
  void* last = *self;
  dw_exception_destroy(&last);
}

// std::bad_array_new_length: since GCC 11 thrown by another function.
extern "C" [[noreturn]] void __cxa_throw_bad_array_new_length();
DW_HIDDEN [[noreturn]] void dw_throw_bad_length() __asm__("_ZSt28__throw_bad_array_new_lengthv");
DW_HIDDEN [[noreturn]] void dw_throw_bad_length() { __cxa_throw_bad_array_new_length(); }
