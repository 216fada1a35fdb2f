# libtsgen and its CMake package: find_package(tsgen), then link tsgen::tsgen.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(STRINGS csrc/tsgen.h abi REGEX "TSGEN_ABI_VERSION [0-9]")
string(REGEX MATCH "[0-9]+" abi "${abi}")

add_library(tsgen SHARED ${C_API_SOURCES})
add_library(tsgen::tsgen ALIAS tsgen)
target_link_libraries(tsgen PRIVATE ${objects})
target_compile_definitions(tsgen PRIVATE ${with_cuda})
target_include_directories(tsgen INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/csrc>)
# Helper threads sleep in it until the process ends: it stays where it is. Only what tsgen.h
# declares is exported: templates of the standard library would be, too.
target_link_options(tsgen PRIVATE -Wl,-z,nodelete
                    -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/cmake/exports.map)
# In the build's folder, whatever a wheel's _C is put into.
set_target_properties(tsgen PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${abi}
                      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}
                      PUBLIC_HEADER "csrc/tsgen.h;csrc/tsgen_ops.h")

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/tsgen)
install(TARGETS tsgen EXPORT tsgen INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT tsgen NAMESPACE tsgen:: FILE tsgenConfig.cmake DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tsgenConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tsgenConfigVersion.cmake DESTINATION ${package})
