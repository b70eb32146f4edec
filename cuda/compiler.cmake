# Finds the compiler that `cuda` asks for, and what it shall compile for: `architectures`. Where there
# is none, `cuda` becomes off, or the build ends if it was asked for.

# The folder of a build outlives its compiler where pip brings another one for each build.
if(IS_ABSOLUTE "${CMAKE_CUDA_COMPILER}" AND NOT EXISTS "${CMAKE_CUDA_COMPILER}")
  unset(CMAKE_CUDA_COMPILER CACHE)
  file(REMOVE "${CMAKE_BINARY_DIR}/CMakeFiles/${CMAKE_VERSION}/CMakeCUDACompiler.cmake")
endif()
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)
endif()

if(cuda STREQUAL "wheels")
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import nvidia; print(*nvidia.__path__, sep=';')"
    OUTPUT_VARIABLE compilers OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  list(TRANSFORM compilers APPEND "/cu13/bin/nvcc")
  file(GLOB compilers ${compilers})
  if(NOT compilers)
    message(FATAL_ERROR "RESMEM_CUDA=wheels needs the nvcc of PyPI, which pip brings only if this is "
      "in the environment: RESMEM_CUDA=wheels pip install .")
  endif()
  list(GET compilers 0 CMAKE_CUDA_COMPILER)
endif()

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
  if(NOT cuda STREQUAL "auto")
    message(FATAL_ERROR "RESMEM_CUDA=${cuda} needs nvcc 12.0 or later, on the PATH or in CUDACXX, and "
      "a C++ compiler that it supports; found: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  set(cuda off)
endif()

# Code for an architecture runs on the later ones of its major number. PTX, of 8.0, is compiled by the
# driver for all others.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  set(architectures 80 90-real)
else()
  set(architectures 80 90-real 100-real 120-real)
endif()

# RESMEM_CUDA_ARCHITECTURES, of CMake or of the environment, names others: 90-real builds only for
# devices of 9.0, in a part of the time.
if(RESMEM_CUDA_ARCHITECTURES)
  set(architectures ${RESMEM_CUDA_ARCHITECTURES})
elseif(DEFINED ENV{RESMEM_CUDA_ARCHITECTURES})
  set(architectures $ENV{RESMEM_CUDA_ARCHITECTURES})
endif()
