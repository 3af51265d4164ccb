// Run a plan of `ask plan ... --behavior-tree` with BehaviorTree.CPP 4. Replace `Skill` with your robot's actions.
//
//   ros2 run robobrain_ros ask plan "put the red block into the green bowl" --behavior-tree > plan.xml
//   run_plan plan.xml pick:object place:object,relation,place
//
// Each further argument is a skill's ID and the names of its arguments.

#include <behaviortree_cpp/bt_factory.h>

#include <chrono>
#include <exception>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

// Executes one step. This one only prints its ports, and ends at the second tick.
class Skill : public BT::StatefulActionNode {
 public:
  using StatefulActionNode::StatefulActionNode;

 private:
  BT::NodeStatus onStart() override {
    std::string text = name() + " " + registrationName() + "\n";
    for (const auto& port : config().input_ports) {
      text += "  " + port.first + "=" + getInput<std::string>(port.first).value() + "\n";
    }
    std::cout << text;
    return BT::NodeStatus::RUNNING;  // Here, send a goal to your robot, such as a MoveIt or Nav2 action.
  }

  BT::NodeStatus onRunning() override { return BT::NodeStatus::SUCCESS; }

  void onHalted() override { std::cout << name() << " halted\n"; }  // Here, cancel the goal.
};

// Registers a skill. An argument such as "place:object,relation,place" names its ID and its arguments.
void register_skill(BT::BehaviorTreeFactory& factory, const std::string& argument) {
  const auto colon = argument.find(':');
  BT::PortsList ports;
  for (const char* name : {"robot", "skill", "text", "arguments"}) {
    ports.insert(BT::InputPort<std::string>(name));
  }
  std::istringstream names(colon == std::string::npos ? "" : argument.substr(colon + 1));
  for (std::string name; std::getline(names, name, ',');) {
    ports.insert(BT::InputPort<std::string>(name));
  }
  factory.registerBuilder({BT::NodeType::ACTION, argument.substr(0, colon), ports, {}}, BT::CreateBuilder<Skill>());
}

int main(int count, char** arguments) {
  if (count < 2) {
    std::cerr << "usage: run_plan FILE [SKILL:ARGUMENT,ARGUMENT,...]...\n";
    return 2;
  }
  try {
    BT::BehaviorTreeFactory factory;
    for (int i = 2; i < count; ++i) {
      register_skill(factory, arguments[i]);
    }
    auto tree = factory.createTreeFromFile(arguments[1]);
    const auto status = tree.tickWhileRunning(std::chrono::milliseconds(1));
    std::cout << BT::toStr(status) << "\n";
    return status == BT::NodeStatus::SUCCESS ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
