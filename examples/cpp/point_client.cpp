// Ask a node robobrain where an object is, and print its pixels and its position.
//
//   ros2 run robobrain_ros_examples point_client "the red mug"

#include <chrono>
#include <cmath>
#include <iostream>
#include <memory>
#include <rclcpp/rclcpp.hpp>
#include <robobrain_ros/srv/locate.hpp>

using Locate = robobrain_ros::srv::Locate;
using Outcome = robobrain_ros::msg::Outcome;
using namespace std::chrono_literals;

constexpr auto kLimit = 60s;  // Time to wait for the response.

// Sends the request and returns the exit code: 0 if the object was found.
int ask(const rclcpp::Node::SharedPtr& node, const std::string& instruction) {
  const auto client = node->create_client<Locate>("robobrain/point");
  if (!client->wait_for_service(10s)) {
    std::cerr << "There is no service " << client->get_service_name() << ". Is the node running?\n";
    return 1;
  }
  auto request = std::make_shared<Locate::Request>();
  request->instruction = instruction;
  request->options.timeout = 50.0F;  // Less than kLimit, because the node does not notice that a client has stopped waiting.
  auto future = client->async_send_request(request);
  if (rclcpp::spin_until_future_complete(node, future, kLimit) != rclcpp::FutureReturnCode::SUCCESS) {
    std::cerr << "No response from " << client->get_service_name() << ".\n";
    return 1;
  }
  const auto response = future.get();
  if (response->outcome.code != Outcome::OK) {
    std::cerr << response->outcome.message << "\n";
    return 1;
  }
  const auto& found = response->affordances;
  for (const auto& point : found.points) {
    std::cout << instruction << ": u=" << point.u << " v=" << point.v;
    if (!std::isnan(point.position.z)) {  // Otherwise, the node has no depth for this pixel.
      std::cout << " x=" << point.position.x << " y=" << point.position.y << " z=" << point.position.z << " in "
                << found.header.frame_id;
    }
    std::cout << "\n";
  }
  if (!found.position_note.empty()) {
    std::cerr << found.position_note << "\n";
  }
  return 0;
}

int main(int count, char** values) {
  const auto arguments = rclcpp::init_and_remove_ros_arguments(count, values);
  if (arguments.size() != 2) {
    std::cerr << "usage: point_client INSTRUCTION\n";
    return 2;
  }
  const int code = ask(std::make_shared<rclcpp::Node>("point_client"), arguments[1]);
  rclcpp::shutdown();
  return code;
}
